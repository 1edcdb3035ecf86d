// Where the boxes are. dagre computes it (layers, order and routes); groups are laid out one by one, and then as boxes.

const ROW = 17;
const MOST_COLUMNS = 40;
const pen = document.createElement("canvas").getContext("2d");
const family = getComputedStyle(document.body).fontFamily;

function widthOf(text, size = 13, weight = 400) {
  pen.font = `${weight} ${size}px ${family}`;
  return pen.measureText(text).width;
}

/** The lines of a box below its name: what it is, then its columns if they are wanted. */
function linesOf(number, { columns }) {
  const table = tables[number];
  const [first, last] = stepsOf.get(number) ?? [];
  const step = first === undefined ? "" : first === last ? `#${first}  ` : `#${first}–${last}  `;
  const sub = `${step}← ${usersOf[number]}   → ${usesOf[number]}`;
  if (!columns) {
    return { sub, rows: [] };
  }
  const primary = new Set(table.unique.filter((key) => key.primary).flatMap((key) => key.columns.split(", ")));
  const foreign = new Set(keysFrom[number].flatMap((key) => key.columns.split(", ")));
  const rows = table.columns.slice(0, MOST_COLUMNS).map((column) => ({
    mark: primary.has(column.name) ? "PK" : foreign.has(column.name) ? "FK" : "",
    name: column.name,
    type: column.type,
  }));
  const rest = table.columns.length - rows.length;
  return { sub, rows: rest > 0 ? [...rows, { mark: "", name: `and ${counted(rest, "more column")}`, type: "" }] : rows };
}

function boxOf(number, options) {
  const table = tables[number];
  const cycle = cycleOf.get(table.cycle);
  const mark = cycle ? `cycle ${cycle.number}` : "";
  const { sub, rows } = linesOf(number, options);
  const wide = rows.map((row) => 30 + widthOf(row.name, 11) + 14 + widthOf(row.type, 11) + 10);
  const w = Math.ceil(Math.max(widthOf(table.label) + (mark ? widthOf(mark, 11, 600) + 12 : 0) + 20, widthOf(sub, 11) + 20, ...wide));
  return { id: `t${number}`, kind: "table", number, mark, sub, rows, w, h: 40 + (rows.length > 0 ? rows.length * ROW + 4 : 0) };
}

/** Lay out boxes that arrows connect. Boxes without an arrow are in rows below the others. */
function layOut(boxes, arrows, { gap = 54, labels = false, ranker = "tight-tree" } = {}) {
  const tied = new Set(arrows.flatMap(({ from, to }) => [from, to]));
  const graph = new dagre.graphlib.Graph({ multigraph: false });
  graph.setGraph({ rankdir: data.reverse ? "RL" : "LR", nodesep: 10, edgesep: 6, ranksep: gap, ranker });
  const placed = boxes.filter((box) => tied.has(box.id));
  for (const box of placed) {
    graph.setNode(box.id, { width: box.w, height: box.h });
  }
  for (const arrow of arrows) {
    const size = labels && arrow.label ? { width: Math.max(...arrow.label.map((line) => widthOf(line, 11))) + 12, height: arrow.label.length * 14 + 4, labelpos: "c" } : {};
    graph.setEdge(arrow.from, arrow.to, size);
  }
  let [width, height] = [0, 0];
  if (placed.length > 0) {
    dagre.layout(graph);
    ({ width, height } = graph.graph());
  }
  for (const box of placed) {
    const { x, y } = graph.node(box.id);
    Object.assign(box, { x: x - box.w / 2, y: y - box.h / 2 });
  }
  const byId = new Map(placed.map((box) => [box.id, box]));
  for (const arrow of arrows) {
    const { points, x, y } = graph.edge(arrow.from, arrow.to);
    arrow.points = anchored(points.map((point) => ({ ...point })), byId.get(arrow.from), byId.get(arrow.to));
    arrow.labelAt = x === undefined ? null : { x, y };
  }
  const rest = boxes.filter((box) => !tied.has(box.id));
  const area = rest.reduce((sum, box) => sum + (box.w + 14) * (box.h + 14), 0);
  const most = Math.max(width, Math.sqrt(area * 1.8), ...rest.map((box) => box.w));
  let [x, y, tallest] = [0, height > 0 && rest.length > 0 ? height + 24 : height, 0];
  for (const box of rest) {
    if (x > 0 && x + box.w > most) {
      [x, y, tallest] = [0, y + tallest + 12, 0];
    }
    Object.assign(box, { x, y });
    x += box.w + 14;
    width = Math.max(width, x - 14);
    tallest = Math.max(tallest, box.h);
  }
  return { width, height: y + tallest };
}

/** The route, from the side of one box to the side of the other: dagre aims at their centres. */
function anchored(points, source, target) {
  const inside = (box, y) => Math.min(box.y + box.h - 8, Math.max(box.y + 8, y));
  const forward = source.x + source.w / 2 < target.x + target.w / 2;
  const near = points.length > 2 ? points.slice(1, -1) : [];
  const startY = near[0]?.y ?? target.y + target.h / 2;
  const endY = near.at(-1)?.y ?? source.y + source.h / 2;
  const start = { x: forward ? source.x + source.w : source.x, y: inside(source, startY) };
  const end = { x: forward ? target.x : target.x + target.w, y: inside(target, endY) };
  return [start, ...near, end];
}

const round = (value) => Math.round(value * 10) / 10;

function arrowhead(x, y, direction) {
  return `M${round(x - 7 * direction)} ${round(y - 4)}L${round(x)} ${round(y)}L${round(x - 7 * direction)} ${round(y + 4)}`;
}

/** A smooth line through the points, with a head, and a bar at the tail if the key is not deferrable. */
function pathOf(points, rigid) {
  const [start, end] = [points[0], points.at(-1)];
  let path = `M${round(start.x)} ${round(start.y)}`;
  const direction = start.x <= end.x ? 1 : -1;
  if (points.length === 2) {
    const bend = direction * Math.max(18, Math.abs(end.x - start.x) / 2);
    path += `h${6 * direction}C${round(start.x + bend)} ${round(start.y)} ${round(end.x - bend)} ${round(end.y)} ${round(end.x)} ${round(end.y)}`;
  } else {
    path += `h${6 * direction}`;
    for (let place = 1; place < points.length - 1; place += 1) {
      const [point, next] = [points[place], points[place + 1]];
      const middle = place === points.length - 2 ? next : { x: (point.x + next.x) / 2, y: (point.y + next.y) / 2 };
      path += `Q${round(point.x)} ${round(point.y)} ${round(middle.x)} ${round(middle.y)}`;
    }
  }
  const bar = rigid ? `M${round(start.x + 6 * direction)} ${round(start.y - 4)}v8` : "";
  return path + arrowhead(end.x, end.y, direction) + bar;
}

/** A straight way between two boxes, for arrows that no layout has routed. */
function direct(source, target) {
  const end = (box, other) => (box.x + box.w / 2 <= other.x + other.w / 2 ? box.x + box.w : box.x);
  return [
    { x: end(source, target), y: source.y + Math.min(20, source.h / 2) },
    { x: end(target, source), y: target.y + Math.min(20, target.h / 2) },
  ];
}

function loopOf(box, rigid) {
  const [x, y] = [box.x + box.w, box.y + 20];
  return `M${round(x)} ${round(y - 7)}C${round(x + 26)} ${round(y - 20)} ${round(x + 26)} ${round(y + 20)} ${round(x)} ${round(y + 7)}${arrowhead(x, y + 7, -1)}${rigid ? `M${round(x + 6)} ${round(y - 13)}v8` : ""}`;
}

/** Above this number of tables the apps are boxes at first; above it, no drawing of single tables is laid out at once. */
const MANY = 60;

/** The arrows between tables that have keys between them: one for each pair. */
function arrowsBetween(shownKeys, idOf) {
  const found = new Map();
  for (const key of shownKeys) {
    const [from, to] = [idOf(key.source), idOf(key.target)];
    if (from !== undefined && to !== undefined && from !== to) {
      const pair = `${from} ${to}`;
      if (!found.has(pair)) {
        found.set(pair, { from, to, keys: [] });
      }
      found.get(pair).keys.push(key);
    }
  }
  return [...found.values()];
}

const labelOf = (arrow) => arrow.keys.slice(0, 4).map((key) => `${key.columns}: ${describeKey(key)}`);

/** The scene: boxes and arrows with their places. `groupOf` is null where no tables are grouped, `labels` where all are shown. */
function sceneOf({ shown, shownKeys, groupOf, open, columns, labels }) {
  const place = new Map();
  if (groupOf === null) {
    const boxes = shown.map((number) => boxOf(number, { columns }));
    boxes.forEach((box) => place.set(box.number, box));
    const arrows = arrowsBetween(shownKeys, (number) => place.get(number)?.id);
    const named = labels && arrows.length <= 40;
    arrows.forEach((arrow) => Object.assign(arrow, { label: named ? labelOf(arrow) : null }));
    return { boxes, arrows, ...layOut(boxes, arrows, { labels: named, ranker: labels === null ? "longest-path" : "tight-tree" }), place };
  }
  const members = new Map();
  for (const number of shown) {
    const { id } = groupOf(number);
    members.set(id, [...(members.get(id) ?? []), number]);
  }
  const [outer, inner, innerArrows] = [[], [], []];
  const idOf = new Map();
  for (const [id, numbers] of members) {
    const group = groupOf(numbers[0]);
    numbers.forEach((number) => idOf.set(number, `g${id}`));
    if (group.alone) {
      const box = boxOf(numbers[0], { columns });
      numbers.forEach((number) => [place.set(number, box), idOf.set(number, box.id)]);
      outer.push(box);
      continue;
    }
    const box = { id: `g${id}`, key: id, ...describeGroup(group, numbers), numbers, kind: open.has(id) ? "frame" : "group" };
    outer.push(box);
    if (box.kind === "group") {
      numbers.forEach((number) => place.set(number, box));
      continue;
    }
    const boxes = numbers.map((number) => boxOf(number, { columns }));
    boxes.forEach((each) => place.set(each.number, each));
    const among = new Set(numbers);
    const arrows = arrowsBetween(shownKeys.filter((key) => among.has(key.source) && among.has(key.target)), (number) => `t${number}`);
    const size = layOut(boxes, arrows, { gap: 40, ranker: "longest-path" });
    Object.assign(box, { w: Math.max(box.w, size.width + 40), h: size.height + 88, boxes, arrows });
  }
  const arrows = arrowsBetween(shownKeys, (number) => idOf.get(number));
  const size = layOut(outer, arrows, { gap: 28 });
  for (const frame of outer.filter((box) => box.boxes)) {
    const [x, y] = [frame.x + 16, frame.y + 76];
    const move = (point) => Object.assign(point, { x: point.x + x, y: point.y + y });
    frame.boxes.forEach(move);
    frame.arrows.forEach((arrow) => arrow.points.forEach(move));
    inner.push(...frame.boxes);
    innerArrows.push(...frame.arrows);
  }
  arrows.forEach((arrow) => Object.assign(arrow, { between: true }));
  return { boxes: [...outer, ...inner], arrows: [...arrows, ...innerArrows], ...size, place };
}

function describeGroup(group, numbers) {
  const on = [...new Set(numbers.map((number) => tables[number].cycle).filter(Boolean))].sort((one, other) => one - other);
  const steps = numbers.flatMap((number) => stepsOf.get(number) ?? []);
  const mark = on.length === 0 ? "" : on.length === 1 ? `cycle ${on[0]}` : on.length <= 3 ? `cycles ${on.join(", ")}` : `${on.length} cycles`;
  const range = steps.length === 0 ? "" : `#${[...new Set([Math.min(...steps), Math.max(...steps)])].join("–")}`;
  const sub = [group.note, counted(numbers.length, "table")].filter(Boolean).join(" · ");
  const stuck = on.some((cycle) => !cycleOf.get(cycle).deferrable);
  // One thing a line: as levels lie side by side, the width of the boxes is what makes a drawing small.
  const last = widthOf(range, 13) + (range && mark ? 14 : 0) + widthOf(mark, 13, 600);
  const w = Math.ceil(Math.max(widthOf(group.name, 17, 600) + 40, widthOf(sub, 13) + 20, last + 20, 90));
  return { name: group.name, mark, sub, range, stuck, w, h: 70 };
}
