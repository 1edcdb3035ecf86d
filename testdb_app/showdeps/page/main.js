// What the reader does: choose, search, filter, move, zoom, export, print. The chosen table is in the address.

const state = { chosen: null, query: "", focused: null, around: 0, grouped: tables.length > MANY && appNames.length > 1, columns: false, step: 0 };
const open = new Set();
const query = document.getElementById("query");
const status = document.getElementById("status");
const control = (id) => document.getElementById(id);

const say = (text) => {
  status.textContent = text;
};

// What is shown

const filter = { app: "", low: "", high: "", name: "", cycles: false, rigid: false };

function readFilter() {
  for (const name of ["app", "low", "high", "name"]) {
    filter[name] = control(`filter-${name}`).value;
  }
  filter.cycles = control("filter-cycles").checked;
  filter.rigid = control("filter-rigid").checked;
}

/** The tables that the filter lets through; the list beside the drawing has the same. */
function filtered() {
  const word = filter.name.trim().toLowerCase();
  return tables
    .map((_, number) => number)
    .filter((number) => {
      const table = tables[number];
      return (
        (filter.app === "" || table.app === filter.app) &&
        (filter.low === "" || table.level >= Number(filter.low)) &&
        (filter.high === "" || table.level <= Number(filter.high)) &&
        haystacks[number].names.includes(word) &&
        (!filter.cycles || table.cycle) &&
        (!filter.rigid || [...keysFrom[number], ...keysTo[number]].some(isRigid))
      );
    });
}

/** The tables within some steps of one, and the keys of the shortest ways to them. */
function neighbourhood(number, steps) {
  const [towards, from] = [dependencies(number), dependents(number)];
  const side = new Map();
  for (const [found, name] of [[towards, "towards"], [from, "from"]]) {
    for (const [other, step] of found) {
      if (step <= steps && other !== number && !side.has(other)) {
        side.set(other, name);
      }
    }
  }
  const distance = (found, each) => (each === number ? 0 : (found.get(each) ?? Infinity));
  const shownKeys = keys.filter(
    (key) =>
      (distance(towards, key.source) + 1 === distance(towards, key.target) && distance(towards, key.target) <= steps) ||
      (distance(from, key.target) + 1 === distance(from, key.source) && distance(from, key.source) <= steps) ||
      (key.cycle > 0 && distance(towards, key.source) <= steps && distance(from, key.target) <= steps),
  );
  return { shown: [number, ...side.keys()], shownKeys, side };
}

function update() {
  let shown = filtered();
  let [shownKeys, side] = [keys, null];
  const isFocus = state.around > 0 && state.chosen !== null;
  if (isFocus) {
    const near = neighbourhood(state.chosen, state.around);
    ({ shownKeys, side } = near);
    shown = near.shown;
  } else if (filter.rigid) {
    shownKeys = keys.filter(isRigid);
  }
  const isFlat = isFocus || state.filtering ? shown.length <= MANY : !state.grouped;
  const groupOf = (number) => {
    if (side === null) {
      return { id: tables[number].app, name: tables[number].app };
    }
    if (number === state.chosen) {
      return { id: "", alone: true };
    }
    const note = side.get(number) === "towards" ? "referenced" : "depends on it";
    return { id: `${side.get(number)} ${tables[number].app}`, name: tables[number].app, note };
  };
  drawScene(sceneOf({ shown, shownKeys, groupOf: isFlat ? null : groupOf, open, columns: state.columns, labels: isFocus ? map.clientWidth > 600 : null }));
  control("grouped").checked = !isFlat;
  control("grouped").disabled = isFocus || state.filtering || appNames.length < 2;
  state.focused = null;
  const first = state.chosen !== null && scene.place.get(state.chosen) ? scene.place.get(state.chosen) : inOrder()[0];
  if (first !== undefined) {
    takeTabStop(first.id);
  }
  mark();
  markStep(state.step);
}

function mark() {
  const [towards, from] = state.chosen === null ? [new Map(), new Map()] : [dependencies(state.chosen), dependents(state.chosen)];
  markChosen(state.chosen, towards, from);
  markHits(state.query.trim() === "" ? null : find(state.query));
  return [towards, from];
}

/** Small enough to see the whole, never too small to read; then what has to be in sight is brought there. */
const LEGIBLE = 0.65;

function fit(target = inOrder()[0]) {
  const fits = fitting();
  setScale(Math.max(LEGIBLE, Math.min(1, fits)));
  map.scrollTo(0, 0);
  reveal(target, { glide: false });
}

function setFilter() {
  readFilter();
  state.filtering = Object.values(filter).some(Boolean);
  control("filtering").textContent = state.filtering ? `Filter: ${counted(filtered().length, "table")}` : "Filter and view";
  update();
  fit();
  if (state.chosen === null) {
    showFound();
  }
}

/** Show a table's neighbours and hide the rest; 0 shows all. */
function setAround(steps) {
  state.around = steps;
  control("around").value = String(Math.min(99, steps));
  update();
  fit(scene.place.get(state.chosen));
}

function toggleGroup(key) {
  if (!open.delete(key)) {
    open.add(key);
  }
  update();
  const box = scene.boxes.find((each) => each.key === key);
  reveal(box);
  focusBox(box.id);
}

// Choosing and searching

function choose(number, { focusPanel = false } = {}) {
  state.chosen = number;
  document.body.toggleAttribute("data-chosen", number !== null);
  control("around").disabled = number === null;
  if (number !== null && (state.around > 0 || scene.place.get(number)?.kind !== "table")) {
    setAround(state.around || 1);
  } else if (number === null && state.around > 0) {
    setAround(0);
  }
  const [towards, from] = mark();
  if (number !== null) {
    showTable(number, towards, from, () => choose(null, { focusPanel: true }));
    const many = from.size > 1 ? `${from.size.toLocaleString("en")} depend` : from.size === 1 ? "1 depends" : "none depends";
    say(`${tables[number].label} depends on ${counted(towards.size, "table")}; ${many} on it`);
    reveal(scene.place.get(number));
    takeTabStop(`t${number}`);
  } else {
    showFound();
  }
  const address = number === null ? "#" : `#${encodeURIComponent(tables[number].id)}`;
  if ((location.hash || "#") !== address) {
    history.pushState(null, "", address);
  }
  if (focusPanel) {
    panel.querySelector("h2").focus({ preventScroll: true });
  }
}

function showFound() {
  const words = state.query.trim();
  const hits = words === "" ? null : find(words);
  markHits(hits);
  if (state.chosen !== null) {
    return;
  }
  if (hits === null) {
    showWhole();
    say("");
    return;
  }
  showHits(words, hits);
  if (hits.length > 0) {
    reveal(scene.place.get(hits[0].number), { glide: false });
  }
  const more = hits.length > 0 ? "; Enter chooses the first" : "";
  say(capital(`${counted(hits.length, "table")} found${more}`));
}

function search() {
  state.query = query.value;
  if (state.chosen !== null) {
    choose(null);
  } else {
    showFound();
  }
}

/** The drawing is one stop of the Tab key, at the box where the reader was last. */
function takeTabStop(id) {
  elements.get(state.focused)?.setAttribute("tabindex", -1);
  state.focused = id;
  elements.get(id)?.setAttribute("tabindex", 0);
}

function focusBox(id) {
  takeTabStop(id);
  elements.get(id).focus({ preventScroll: true });
  reveal(scene.boxes.find((box) => box.id === id));
}

/** The boxes from left to right and from top to bottom. */
const inOrder = () => [...scene.boxes].sort((one, other) => one.x - other.x || one.y - other.y);

const middle = (box) => [box.x + box.w / 2, box.y + Math.min(box.h, 40) / 2];

/** The box that is nearest in the direction of an arrow key; Home and End are the first and the last box below each other. */
function neighbour(key) {
  const here = scene.boxes.find((box) => box.id === state.focused);
  if (here === undefined) {
    return inOrder()[0];
  }
  const [x, y] = middle(here);
  if (key === "Home" || key === "End") {
    const same = inOrder().filter((box) => Math.abs(middle(box)[0] - x) < Math.max(here.w, box.w) / 2).sort((one, other) => one.y - other.y);
    return same.at(key === "Home" ? 0 : -1);
  }
  const [across, sign] = { ArrowLeft: [true, -1], ArrowRight: [true, 1], ArrowUp: [false, -1], ArrowDown: [false, 1] }[key];
  let [best, least] = [undefined, Infinity];
  for (const box of scene.boxes) {
    const [dx, dy] = [middle(box)[0] - x, middle(box)[1] - y];
    const [along, aside] = across ? [dx * sign, Math.abs(dy)] : [dy * sign, Math.abs(dx)];
    const cost = along + 3 * aside;
    if (box !== here && along > 1 && cost < least && (across || aside < Math.max(here.w, box.w))) {
      [best, least] = [box, cost];
    }
  }
  return best;
}

function press(element) {
  if (element.dataset.group !== undefined) {
    toggleGroup(element.dataset.group);
  } else {
    choose(Number(element.dataset.number));
    elements.get(state.focused)?.focus({ preventScroll: true });
  }
}

function onMapKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  const zoom = { "+": scale * 1.25, "=": scale * 1.25, "-": scale / 1.25, 0: 1, f: fitting() }[event.key];
  if (zoom !== undefined) {
    setScale(zoom);
    event.preventDefault();
  } else if (/^[1-9]$/u.test(event.key) && state.chosen !== null) {
    setAround(Number(event.key));
    elements.get(state.focused)?.focus({ preventScroll: true });
  } else if (event.key === "Enter" || event.key === " ") {
    const node = event.target.closest(".node");
    if (node !== null) {
      event.preventDefault();
      press(node);
    }
  } else if (/^(Arrow(Up|Down|Left|Right)|Home|End)$/u.test(event.key)) {
    event.preventDefault();
    const next = neighbour(event.key);
    if (next !== undefined) {
      focusBox(next.id);
    }
  }
}

// Mouse and fingers: the ground moves the drawing, a box moves alone, a wheel with Ctrl and two fingers zoom.

let drag = null;

function onPointerDown(event) {
  if (event.button !== 0 || event.pointerType === "touch") {
    return;
  }
  const id = event.target.closest(".node.table, .node.group")?.dataset;
  const box = id === undefined ? null : scene.boxes.find((each) => (id.number === undefined ? each.key === id.group : each.number === Number(id.number) && each.kind === "table"));
  drag = { box, x: event.clientX, y: event.clientY, left: map.scrollLeft, top: map.scrollTop, from: box && { x: box.x, y: box.y }, moved: false };
}

function onPointerMove(event) {
  if (drag === null || (event.buttons & 1) === 0) {
    drag = null;
    return;
  }
  const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
  if (!drag.moved && Math.hypot(dx, dy) < 5) {
    return;
  }
  drag.moved = true;
  map.classList.remove("gliding");
  if (drag.box === null) {
    map.scrollTo(drag.left - dx, drag.top - dy);
  } else {
    Object.assign(drag.box, { x: drag.from.x + dx / scale, y: drag.from.y + dy / scale });
    redraw(drag.box);
  }
}

function onClick(event) {
  if (drag?.moved) {
    drag = null;
    if (state.chosen !== null) {
      mark();
    }
    return;
  }
  drag = null;
  const node = event.target.closest(".node");
  if (node !== null) {
    press(node);
  }
}

function at(x, y) {
  const { left, top } = map.getBoundingClientRect();
  return { x: x - left, y: y - top };
}

function onWheel(event) {
  if (event.ctrlKey || event.metaKey) {
    event.preventDefault();
    zoomAt(scale * Math.exp(-Math.max(-50, Math.min(50, event.deltaY)) / 150), at(event.clientX, event.clientY));
  }
}

let pinch = null;

function onTouch(event) {
  if (event.touches.length !== 2) {
    pinch = null;
    return;
  }
  event.preventDefault();
  const [one, other] = event.touches;
  const apart = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  if (pinch !== null) {
    zoomAt((pinch.scale * apart) / pinch.apart, at((one.clientX + other.clientX) / 2, (one.clientY + other.clientY) / 2));
  } else {
    pinch = { apart, scale };
  }
}

// The order as an animation

let playing = 0;

function setStep(step) {
  state.step = step;
  control("step").value = String(step);
  markStep(step);
  const names = step === 0 ? "" : data.order[step - 1].map(({ id }) => id).join(", ");
  control("step-name").textContent = step === 0 ? `${counted(data.order.length, "step")}` : `${step} of ${data.order.length}: ${names}`;
  control("step").setAttribute("aria-valuetext", control("step-name").textContent);
}

function stop() {
  clearInterval(playing);
  playing = 0;
  control("play").textContent = "Play";
}

function play() {
  if (playing !== 0) {
    stop();
    return;
  }
  control("play").textContent = "Stop";
  if (state.step >= data.order.length) {
    setStep(0);
  }
  playing = setInterval(() => {
    setStep(state.step + 1);
    reveal(scene.place.get(data.order[state.step - 1][0].table));
    if (state.step >= data.order.length) {
      stop();
    }
  }, Math.max(150, Math.min(900, 20_000 / data.order.length)));
}

function onKey(event) {
  const isTyping = /^(INPUT|SELECT)$/u.test(event.target.tagName) && !/^(range|checkbox)$/u.test(event.target.type);
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "Escape") {
    if (control("filtering").parentElement.open) {
      control("filtering").parentElement.open = false;
      control("filtering").focus();
    } else if (state.chosen !== null) {
      choose(null);
      focusAgain();
    } else if (state.query !== "") {
      query.value = "";
      search();
    }
  }
}

function readAddress() {
  let id = "";
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch {
    // Not an address that this page has written.
  }
  const number = numberOf.get(id) ?? null;
  if (number !== state.chosen) {
    choose(number);
  }
}

// Paper

const PAPER = { width: 1030, height: 620 };
const SMALLEST = 0.45;
let scaleBefore = 1;

function beforePrint() {
  scaleBefore = scale;
  const fits = Math.min(1, PAPER.width / canvas.width.baseVal.value, PAPER.height / canvas.height.baseVal.value);
  document.documentElement.dataset.paper = fits < SMALLEST ? "table" : "map";
  setScale(fits);
  const titles = ["Step", "Table", "Models", "Rows", "References"];
  const rows = data.order.flatMap((step, place) =>
    step.map(({ id, table: number }) => {
      const table = tables[number];
      const targets = new Set(keysFrom[number].map((key) => tables[key.target].id));
      return [String(place + 1), id, table.models.join(", "), table.rows === null ? "" : shortRows(table), [...targets].join(", ")];
    }),
  );
  const used = titles.map((_, column) => rows.some((cells) => cells[column] !== ""));
  const row = (tag, cells) => make("tr", {}, cells.filter((_, column) => used[column]).map((cell) => make(tag, {}, cell)));
  document
    .getElementById("paper")
    .replaceChildren(make("h2", {}, orderTitle()), make("table", {}, make("thead", {}, row("th", titles)), make("tbody", {}, rows.map((cells) => row("td", cells)))));
}

function afterPrint() {
  document.getElementById("paper").replaceChildren();
  delete document.documentElement.dataset.paper;
  setScale(scaleBefore);
}

/** After Escape the focus is on a box again, if it was on one that is drawn no more. */
function focusAgain() {
  if (document.activeElement === document.body && elements.has(state.focused)) {
    focusBox(state.focused);
  }
}

function start() {
  const shown = tables.length === data.total ? counted(data.total, "table") : `${tables.length.toLocaleString("en")} of ${counted(data.total, "table")}`;
  document.getElementById("summary").textContent = `${shown}, ${counted(keys.length, "foreign key")}, ${counted(cycles.length, "cycle")}`;
  control("filter-app").append(...appNames.map((name) => make("option", { value: name }, name)));
  control("filter-app").closest("label").hidden = appNames.length < 2;
  control("step").max = String(data.order.length);
  setStep(0);
  update();
  fit();
  showFound();
  readAddress();
  query.addEventListener("input", search);
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const [first] = state.query.trim() === "" ? [] : find(state.query);
    if (first !== undefined) {
      choose(first.number, { focusPanel: true });
    }
  });
  panel.addEventListener("click", (event) => {
    const number = event.target.closest("[data-table]")?.dataset.table;
    if (number !== undefined) {
      choose(Number(number), { focusPanel: true });
    }
  });
  map.addEventListener("keydown", onMapKey);
  map.addEventListener("focusin", (event) => {
    const box = scene.boxes.find(({ id }) => elements.get(id) === event.target);
    if (box !== undefined) {
      takeTabStop(box.id);
    }
  });
  map.addEventListener("click", onClick);
  map.addEventListener("pointerdown", onPointerDown);
  window.addEventListener("pointermove", onPointerMove);
  map.addEventListener("wheel", onWheel, { passive: false });
  for (const name of ["touchstart", "touchmove", "touchend"]) {
    map.addEventListener(name, onTouch, { passive: false });
  }
  for (const name of ["app", "low", "high", "name", "cycles", "rigid"]) {
    control(`filter-${name}`).addEventListener("input", setFilter);
  }
  control("clear").addEventListener("click", () => {
    control("filter").reset();
    setFilter();
  });
  control("around").addEventListener("change", (event) => setAround(Number(event.target.value)));
  control("columns").addEventListener("input", (event) => {
    state.columns = event.target.checked;
    update();
    reveal(scene.place.get(state.chosen));
  });
  control("grouped").addEventListener("input", (event) => {
    state.grouped = event.target.checked;
    open.clear();
    update();
    fit();
  });
  control("expand").addEventListener("click", () => {
    const groups = scene.boxes.filter((box) => box.kind === "group");
    groups.forEach((box) => open.add(box.key));
    if (groups.length === 0) {
      open.clear();
    }
    update();
    fit();
  });
  control("step").addEventListener("input", (event) => {
    stop();
    setStep(Number(event.target.value));
  });
  control("play").addEventListener("click", play);
  control("svg").addEventListener("click", saveSvg);
  control("png").addEventListener("click", savePng);
  control("print").addEventListener("click", () => window.print());
  document.addEventListener("keydown", onKey);
  document.getElementById("smaller").addEventListener("click", () => setScale(scale / 1.25));
  document.getElementById("larger").addEventListener("click", () => setScale(scale * 1.25));
  document.getElementById("actual").addEventListener("click", () => setScale(1));
  document.getElementById("fit").addEventListener("click", () => setScale(fitting()));
  window.addEventListener("popstate", readAddress);
  window.addEventListener("hashchange", readAddress);
  window.addEventListener("beforeprint", beforePrint);
  window.addEventListener("afterprint", afterPrint);
  performance.mark("ready");
}

start();
