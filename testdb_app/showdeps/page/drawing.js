// The drawing: SVG of the scene. Nothing here chooses what is shown.

const map = document.getElementById("map");
const sizer = document.getElementById("sizer");
const canvas = document.getElementById("canvas");
const MARGIN = 24;

let scene = { boxes: [], arrows: [], width: 0, height: 0, place: new Map() };
/** The elements of the boxes by id, and of tables by number. */
const elements = new Map();
const nodes = [];
let overlay = null;

function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function kindOf(arrow) {
  const on = arrow.keys.map((key) => cycleOf.get(key.cycle)).filter(Boolean);
  return on.length === 0 ? "plain" : on.some((cycle) => !cycle.deferrable) ? "stuck-ring" : "ring";
}

const text = (className, x, y, content, attributes = {}) => makeSvg("text", { class: className, x: round(x), y: round(y), ...attributes }, content);

function drawBox(box) {
  const table = box.kind === "table" ? tables[box.number] : null;
  const cycle = table ? cycleOf.get(table.cycle) : null;
  const marked = cycle ? (cycle.deferrable ? "cycle" : "stuck") : box.mark ? (box.stuck ? "stuck" : "cycle") : "";
  const name = table ? table.label : box.name;
  const element = makeSvg(
    "g",
    {
      class: ["node", box.kind, table?.noModel && "no-model", marked].filter(Boolean).join(" "),
      role: "button",
      tabindex: -1,
      "aria-pressed": table ? "false" : null,
      "aria-expanded": table ? null : String(box.kind === "frame"),
      "data-number": table ? box.number : null,
      "data-group": table ? null : box.key,
    },
    makeSvg("title", {}, table ? [table.id, ...table.models, describeRows(table)].join("\n") : `${box.name}: ${box.sub}`),
    makeSvg("rect", { width: round(box.w), height: round(box.h), rx: 6 }),
    table ? null : text("glyph", 10, 21, box.kind === "frame" ? "▾" : "▸"),
    text("name", table ? 10 : 28, table ? 17 : 21, name),
    box.mark ? text("mark", box.w - 10, table ? 17 : 60, box.mark, { "text-anchor": "end" }) : null,
    table ? text("sub", 10, 33, box.sub) : [text("sub", 10, 42, box.sub), text("sub", 10, 60, box.range)],
    (box.rows ?? []).flatMap((row, place) => {
      const y = 40 + ROW * place + 12;
      return [
        row.mark ? text("type", 8, y, row.mark) : null,
        text("column", 30, y, row.name),
        text("type", box.w - 10, y, row.type, { "text-anchor": "end" }),
      ];
    }),
  );
  if (box.rows?.length > 0) {
    element.insertBefore(makeSvg("path", { class: "rule", d: `M0 39.5H${round(box.w)}` }), element.children[2]);
  }
  // Its label is all that is seen in it.
  const texts = [...element.querySelectorAll("text")];
  texts.forEach((each) => each.after(" "));
  element.setAttribute("aria-label", [...texts.map((each) => each.textContent), table?.noModel ? "no model" : ""].join(" ").trim());
  elements.set(box.id, element);
  if (table) {
    nodes[box.number] = element;
  }
  moveTo(box);
  return element;
}

const moveTo = (box) => elements.get(box.id).setAttribute("transform", `translate(${round(box.x)} ${round(box.y)})`);

function drawArrow(arrow) {
  const rigid = arrow.keys.some(isRigid);
  const kind = kindOf(arrow);
  const title = arrow.between
    ? `${counted(arrow.keys.length, "foreign key")}`
    : arrow.keys.map((key) => `${tables[key.source].label} (${key.columns}) → ${tables[key.target].label}: ${describeKey(key)}`).join("\n");
  arrow.line = makeSvg("path", { d: pathOf(arrow.points, rigid), class: `curve ${kind}${rigid ? " rigid" : ""}${arrow.between ? " between" : ""}` });
  if (!arrow.between) {
    arrow.line.dataset.source = arrow.keys[0].source;
    arrow.line.dataset.target = arrow.keys[0].target;
  }
  const middle = arrow.points[Math.floor(arrow.points.length / 2)];
  const label = arrow.between
    ? text("label", arrow.points.length > 2 ? middle.x : (arrow.points[0].x + arrow.points[1].x) / 2, (arrow.points.length > 2 ? middle.y : (arrow.points[0].y + arrow.points[1].y) / 2) - 3, String(arrow.keys.length), { "text-anchor": "middle" })
    : arrow.label && arrow.labelAt
      ? arrow.label.map((line, place) => text("label", arrow.labelAt.x, arrow.labelAt.y - (arrow.label.length * 14) / 2 + 3 + place * 14, line, { "text-anchor": "middle" }))
      : null;
  arrow.labels = [label].flat().filter(Boolean);
  return makeSvg("g", {}, makeSvg("title", {}, title), arrow.line);
}

function drawScene(given) {
  scene = given;
  elements.clear();
  nodes.length = 0;
  const loops = scene.boxes
    .filter((box) => box.kind === "table")
    .flatMap((box) => {
      const own = keysFrom[box.number].filter((key) => key.target === box.number);
      if (own.length === 0) {
        return [];
      }
      const rigid = own.some(isRigid);
      const line = makeSvg("path", { d: loopOf(box, rigid), class: `curve ${kindOf({ keys: own })}${rigid ? " rigid" : ""}`, "data-source": box.number, "data-target": box.number });
      scene.arrows.push({ from: box.id, to: box.id, keys: own, line, loop: true });
      return [line];
    });
  const back = scene.boxes.filter((box) => box.kind === "frame").map(drawBox);
  const front = scene.boxes.filter((box) => box.kind !== "frame").map(drawBox);
  overlay = makeSvg("g", { "aria-hidden": "true" });
  const arrows = makeSvg("g", { "aria-hidden": "true" }, scene.arrows.filter((arrow) => !arrow.loop).map(drawArrow), loops);
  const [width, height] = [Math.ceil(scene.width + 2 * MARGIN + 20), Math.ceil(scene.height + 2 * MARGIN)];
  canvas.setAttribute("width", width);
  canvas.setAttribute("height", height);
  canvas.setAttribute("viewBox", `${-MARGIN} ${-MARGIN} ${width} ${height}`);
  canvas.replaceChildren(makeSvg("g", {}, back), arrows, overlay, makeSvg("g", { "aria-hidden": "true" }, scene.arrows.flatMap((arrow) => arrow.labels ?? [])), makeSvg("g", {}, front));
  setScale(scale);
}

/** Draw an arrow anew after one of its boxes was moved. */
function redraw(box) {
  moveTo(box);
  const byId = new Map(scene.boxes.map((each) => [each.id, each]));
  for (const arrow of scene.arrows.filter(({ from, to }) => from === box.id || to === box.id)) {
    const rigid = arrow.keys.some(isRigid);
    arrow.line.setAttribute("d", arrow.loop ? loopOf(box, rigid) : pathOf(direct(byId.get(arrow.from), byId.get(arrow.to)), rigid));
    arrow.labels?.forEach((label) => label.remove());
  }
}

/** Mark the table that is chosen, what it depends on (towards) and what depends on it (from). */
function markChosen(number, towards, from) {
  canvas.classList.toggle("chosen", number !== null);
  for (const box of scene.boxes) {
    const has = (found) => (box.kind === "table" ? box.number !== number && found.has(box.number) : box.numbers.some((each) => found.has(each)));
    const { classList } = elements.get(box.id);
    classList.toggle("towards", has(towards));
    classList.toggle("from", has(from));
    if (box.kind === "table") {
      elements.get(box.id).setAttribute("aria-pressed", String(box.number === number));
    }
  }
  const own = scene.place.get(number);
  const isTowards = (key) => number !== null && (key.source === number || towards.has(key.source));
  const isFrom = (key) => number !== null && (key.target === number || from.has(key.target));
  for (const arrow of scene.arrows) {
    const atOwn = !arrow.between || own?.id === arrow.from || own?.id === arrow.to;
    arrow.line.classList.toggle("towards", atOwn && arrow.keys.some(isTowards));
    arrow.line.classList.toggle("from", atOwn && arrow.keys.some(isFrom));
  }
  overlay.replaceChildren();
  if (own === undefined || scene.arrows.some((arrow) => arrow.between && (arrow.from === own.id || arrow.to === own.id))) {
    return;
  }
  // Between groups only the direct keys of the chosen table are drawn one by one.
  const drawn = new Set(scene.arrows.filter((arrow) => !arrow.between).flatMap((arrow) => arrow.keys));
  for (const key of [...keysFrom[number], ...keysTo[number]]) {
    const [source, target] = [scene.place.get(key.source), scene.place.get(key.target)];
    if (!drawn.has(key) && source && target && source !== target) {
      overlay.append(makeSvg("path", { d: pathOf(direct(source, target), isRigid(key)), class: `curve ${key.source === number ? "towards" : "from"}` }));
    }
  }
}

function markHits(hits) {
  canvas.classList.toggle("searching", hits !== null);
  const found = new Set(hits?.map((hit) => hit.number));
  for (const box of scene.boxes) {
    elements.get(box.id).classList.toggle("hit", box.kind === "table" ? found.has(box.number) : box.numbers.some((each) => found.has(each)));
  }
}

/** Show the state after so many steps of the order: what is emptied, and what the step itself empties. */
function markStep(step) {
  canvas.classList.toggle("stepping", step > 0);
  for (const box of scene.boxes) {
    const numbers = box.kind === "table" ? [box.number] : box.numbers;
    const all = numbers.map((number) => stepsOf.get(number) ?? [Infinity, Infinity]);
    const { classList } = elements.get(box.id);
    classList.toggle("emptied", step > 0 && all.every(([, last]) => last < step));
    classList.toggle("current", step > 0 && all.some(([first, last]) => first <= step && step <= last));
  }
}

// Size

let scale = 1;
let settled = 0;

function setScale(wanted, anchor = { x: map.clientWidth / 2, y: map.clientHeight / 2 }) {
  const before = scale;
  const [x, y] = [map.scrollLeft + anchor.x, map.scrollTop + anchor.y];
  scale = Math.min(2, Math.max(0.08, wanted));
  canvas.style.transform = `scale(${scale})`;
  sizer.style.width = `${canvas.width.baseVal.value * scale}px`;
  sizer.style.height = `${canvas.height.baseVal.value * scale}px`;
  map.scrollLeft = (x * scale) / before - anchor.x;
  map.scrollTop = (y * scale) / before - anchor.y;
  const actual = document.getElementById("actual");
  actual.textContent = `${Math.round(scale * 100)} %`;
  actual.setAttribute("aria-label", `${actual.textContent}, original size`);
}

/** For wheels and fingers: while they zoom, the picture is scaled as it is; a moment later it is drawn sharp again. */
function zoomAt(wanted, anchor) {
  canvas.classList.add("zooming");
  clearTimeout(settled);
  settled = setTimeout(() => canvas.classList.remove("zooming"), 200);
  setScale(wanted, anchor);
}

const fitting = () => Math.min(map.clientWidth / canvas.width.baseVal.value, map.clientHeight / canvas.height.baseVal.value);

/** Scroll the drawing, and nothing else, until the box is in sight. */
function reveal(box, { glide = true } = {}) {
  if (box === undefined) {
    return;
  }
  const margin = 12;
  const at = (value) => (value + MARGIN) * scale;
  const [left, right] = [at(box.x) - margin, at(box.x + box.w) + margin];
  const [top, bottom] = [at(box.y) - margin, at(box.y + box.h) + margin];
  const inside = (low, high, start, size) => low >= start && high <= start + size;
  if (inside(left, right, map.scrollLeft, map.clientWidth) && inside(top, bottom, map.scrollTop, map.clientHeight)) {
    return;
  }
  map.classList.toggle("gliding", glide);
  map.scrollTo((left + right - map.clientWidth) / 2, (top + bottom - map.clientHeight) / 2);
}
