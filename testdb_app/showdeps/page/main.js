// What the reader does: choose, search, move, zoom, print. The chosen table is in the address, so that it can be shared.

const state = { chosen: null, query: "", focused: null };
const query = document.getElementById("query");
const status = document.getElementById("status");

const say = (text) => {
  status.textContent = text;
};

function choose(number, { focusPanel = false } = {}) {
  state.chosen = number;
  document.body.toggleAttribute("data-chosen", number !== null);
  const [towards, from] = number === null ? [new Map(), new Map()] : [dependencies(number), dependents(number)];
  markChosen(number, towards, from);
  if (number !== null) {
    showTable(number, towards, from, () => choose(null, { focusPanel: true }));
    const many = from.size > 1 ? `${from.size.toLocaleString("en")} depend` : from.size === 1 ? "1 depends" : "none depends";
    say(`${tables[number].label} depends on ${counted(towards.size, "table")}; ${many} on it`);
    reveal(number);
    takeTabStop(number);
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
    reveal(hits[0].number, { glide: false });
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

/** The graph is one stop of the Tab key, at the table where the reader was last. */
function takeTabStop(number) {
  if (state.focused !== null) {
    nodes[state.focused].tabIndex = -1;
  }
  state.focused = number;
  nodes[number].tabIndex = 0;
}

function focusNode(number) {
  takeTabStop(number);
  nodes[number].focus({ preventScroll: true });
  reveal(number);
}

function neighbour(key) {
  const column = lists.findIndex((numbers) => numbers.includes(state.focused));
  const row = lists[column].indexOf(state.focused);
  const list = lists[column];
  const steps = { ArrowUp: row - 1, ArrowDown: row + 1, Home: 0, End: list.length - 1 };
  if (key in steps) {
    return list[steps[key]];
  }
  const beside = lists[column + (key === "ArrowRight" ? 1 : -1)];
  const distance = (number) => Math.abs(boxes[number].middle - boxes[state.focused].middle);
  return beside?.reduce((best, number) => (distance(number) < distance(best) ? number : best));
}

function onMapKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  const zoom = { "+": scale * 1.25, "=": scale * 1.25, "-": scale / 1.25, 0: 1, f: fitting() }[event.key];
  if (zoom !== undefined) {
    setScale(zoom);
    event.preventDefault();
    return;
  }
  if (!["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) {
    return;
  }
  event.preventDefault();
  const next = neighbour(event.key);
  if (next !== undefined) {
    focusNode(next);
  }
}

function onKey(event) {
  const isTyping = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "Escape") {
    if (state.chosen !== null) {
      choose(null);
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
  const fits = Math.min(1, PAPER.width / canvas.offsetWidth, PAPER.height / canvas.offsetHeight);
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

/** How small the graph may be made at first, to have all of it in sight. */
const LEGIBLE = 0.7;

function start() {
  const shown = tables.length === data.total ? counted(data.total, "table") : `${tables.length.toLocaleString("en")} of ${counted(data.total, "table")}`;
  document.getElementById("summary").textContent = `${shown}, ${counted(keys.length, "foreign key")}, ${counted(cycles.length, "cycle")}`;
  buildMap(choose);
  drawCurves();
  const fits = fitting();
  setScale(fits < LEGIBLE ? 1 : Math.min(1, fits));
  map.scrollTo(0, (sizer.offsetHeight - map.clientHeight) / 2);
  if (tables.length > 0) {
    takeTabStop(lists[0][0]);
  }
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
    const number = nodes.indexOf(event.target);
    if (number >= 0) {
      takeTabStop(number);
    }
  });
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
