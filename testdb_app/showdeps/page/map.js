// The dependency graph: a button for each table, in columns by level, and behind them the foreign keys as curves.

const map = document.getElementById("map");
const sizer = document.getElementById("sizer");
const canvas = document.getElementById("canvas");
const curves = document.getElementById("curves");

/** The buttons by number of the table, and the lists of them, from left to right. */
const nodes = [];
const lists = [];

function buildMap(onChoose) {
  const levels = [];
  for (const column of data.columns) {
    if (levels.at(-1)?.level !== column.level) {
      levels.push({ level: column.level, columns: [] });
    }
    levels.at(-1).columns.push(column.tables);
  }
  const sections = levels.map(({ level, columns }) =>
    make(
      "section",
      { class: "level", "aria-labelledby": `level-${level}` },
      make("h2", { id: `level-${level}` }, `Level ${level}`),
      make("div", { class: "columns" }, columns.map((numbers) => buildList(numbers, onChoose))),
    ),
  );
  document.getElementById("columns").append(...sections);
  for (const name of ["plain", "ring", "stuck-ring", "towards", "from"]) {
    curves.append(makeCurve(name));
  }
}

function buildList(numbers, onChoose) {
  lists.push(numbers);
  return make("ul", {}, numbers.map((number) => make("li", {}, buildNode(number, onChoose))));
}

function buildNode(number, onChoose) {
  const table = tables[number];
  const cycle = cycleOf.get(table.cycle);
  const classes = ["node", table.noModel && "no-model", cycle && (cycle.deferrable ? "cycle" : "stuck")];
  const node = make(
    "button",
    {
      type: "button",
      class: classes.filter(Boolean).join(" "),
      tabindex: -1,
      "aria-pressed": "false",
      title: [table.id, ...table.models, describeRows(table)].join("\n"),
      click: () => onChoose(number),
    },
    make("span", { class: "name" }, table.label),
    cycle ? make("span", { class: "mark" }, ` cycle ${cycle.number}`) : null,
    table.noModel ? make("span", { class: "unseen" }, "no model") : null,
  );
  nodes[number] = node;
  return node;
}

/** Where each button is inside the canvas, read at once: reading and writing in turns would lay out again each time. */
function measure() {
  return nodes.map((node) => ({
    left: node.offsetLeft,
    right: node.offsetLeft + node.offsetWidth,
    top: node.offsetTop,
    middle: node.offsetTop + node.offsetHeight / 2,
    height: node.offsetHeight,
  }));
}

let boxes = [];

/** One path for all keys of a kind, so that thousands of them stay a few elements. */
function pathOf(chosenKeys) {
  return chosenKeys.map(curveOf).join("");
}

function curveOf(key) {
  const source = boxes[key.source];
  const target = boxes[key.target];
  const siblings = keysFrom[key.source];
  const step = Math.min(5, source.height / (siblings.length + 1));
  const y1 = source.middle + (siblings.indexOf(key) - (siblings.length - 1) / 2) * step;
  const y2 = target.middle;
  if (key.source === key.target) {
    const [x, y] = [source.right, source.middle];
    return `M${x} ${y - 5}C${x + 30} ${y - 16} ${x + 30} ${y + 16} ${x} ${y + 5}${arrowhead(x, y + 5, -1)}`;
  }
  if (Math.abs(source.left - target.left) < 2) {
    const bulge = 24 + Math.min(36, Math.abs(y2 - y1) / 12);
    const end = target.right;
    return `M${source.right} ${y1}C${source.right + bulge} ${y1} ${end + bulge} ${y2} ${end} ${y2}${arrowhead(end, y2, -1)}`;
  }
  const direction = source.left < target.left ? 1 : -1;
  const x1 = direction > 0 ? source.right : source.left;
  const x2 = direction > 0 ? target.left : target.right;
  const bend = direction * Math.max(24, Math.abs(x2 - x1) / 2);
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}${arrowhead(x2, y2, direction)}`;
}

const arrowhead = (x, y, direction) => `M${x - 6 * direction} ${y - 3.5}L${x} ${y}L${x - 6 * direction} ${y + 3.5}`;

function drawCurves() {
  boxes = measure();
  const kindOf = (key) => {
    const cycle = cycleOf.get(key.cycle);
    return cycle === undefined ? "plain" : cycle.deferrable ? "ring" : "stuck-ring";
  };
  const kinds = Map.groupBy ? Map.groupBy(keys, kindOf) : keys.reduce((found, key) => {
    const kind = kindOf(key);
    return found.set(kind, [...(found.get(kind) ?? []), key]);
  }, new Map());
  for (const name of ["plain", "ring", "stuck-ring"]) {
    setCurve(name, kinds.get(name) ?? []);
  }
}

function setCurve(name, chosenKeys) {
  curves.querySelector(`.${name}`).setAttribute("d", pathOf(chosenKeys));
}

/** Mark the table that is chosen, what it depends on (towards) and what depends on it (from). */
function markChosen(number, towards, from) {
  canvas.classList.toggle("chosen", number !== null);
  nodes.forEach((node, each) => {
    node.classList.toggle("towards", each !== number && towards.has(each));
    node.classList.toggle("from", each !== number && from.has(each));
    const pressed = String(each === number);
    if (node.getAttribute("aria-pressed") !== pressed) {
      node.setAttribute("aria-pressed", pressed);
    }
  });
  setCurve("towards", number === null ? [] : keys.filter((key) => key.source === number || towards.has(key.source)));
  setCurve("from", number === null ? [] : keys.filter((key) => key.target === number || from.has(key.target)));
}

function markHits(hits) {
  canvas.classList.toggle("searching", hits !== null);
  const found = new Set(hits?.map((hit) => hit.number));
  nodes.forEach((node, number) => node.classList.toggle("hit", found.has(number)));
}

// Size

let scale = 1;

function setScale(wanted) {
  const before = scale;
  const [x, y] = [map.scrollLeft + map.clientWidth / 2, map.scrollTop + map.clientHeight / 2];
  scale = Math.min(2, Math.max(0.08, wanted));
  canvas.style.transform = `scale(${scale})`;
  sizer.style.width = `${canvas.offsetWidth * scale}px`;
  sizer.style.height = `${canvas.offsetHeight * scale}px`;
  map.scrollLeft = (x * scale) / before - map.clientWidth / 2;
  map.scrollTop = (y * scale) / before - map.clientHeight / 2;
  document.getElementById("actual").textContent = `${Math.round(scale * 100)} %`;
}

const fitting = () => Math.min(map.clientWidth / canvas.offsetWidth, map.clientHeight / canvas.offsetHeight);

/** Scroll the graph, and nothing else, until the table is in sight. */
function reveal(number, { glide = true } = {}) {
  const box = boxes[number];
  const margin = 24;
  const [left, right] = [box.left * scale - margin, box.right * scale + margin];
  const [top, bottom] = [box.top * scale - margin, (box.top + box.height) * scale + margin];
  const inside = (low, high, start, size) => low >= start && high <= start + size;
  if (
    inside(left, right, map.scrollLeft, map.clientWidth) &&
    inside(top, bottom, map.scrollTop, map.clientHeight)
  ) {
    return;
  }
  map.classList.toggle("gliding", glide);
  map.scrollTo((left + right - map.clientWidth) / 2, (top + bottom - map.clientHeight) / 2);
}
