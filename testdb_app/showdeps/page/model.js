// What is drawn, and what follows from it: who references whom, how far that reaches, what a search finds.

const data = JSON.parse(document.getElementById("data").textContent);
const { tables, keys, cycles } = data;

const keysFrom = tables.map(() => []);
const keysTo = tables.map(() => []);
for (const key of keys) {
  keysFrom[key.source].push(key);
  keysTo[key.target].push(key);
}
const cycleOf = new Map(cycles.map((cycle) => [cycle.number, cycle]));
const numberOf = new Map(tables.map((table, number) => [table.id, number]));

const haystacks = tables.map((table) => ({
  names: [table.id, ...table.models, ...table.partitions].join("\n").toLowerCase(),
  columns: table.columns.map((column) => column.name.toLowerCase()),
}));

/** The tables that `start` reaches by keys, each with the number of steps; itself only if a cycle leads back to it. */
function reach(start, next) {
  const steps = new Map();
  let border = [start];
  for (let step = 1; border.length > 0; step += 1) {
    const following = [];
    for (const number of border) {
      for (const other of next(number)) {
        if (!steps.has(other)) {
          steps.set(other, step);
          following.push(other);
        }
      }
    }
    border = following;
  }
  return steps;
}

const dependencies = (number) => reach(number, (each) => keysFrom[each].map((key) => key.target));
const dependents = (number) => reach(number, (each) => keysTo[each].map((key) => key.source));

/** The tables whose name, model or column has every word of the query; those by name first. */
function find(query) {
  const words = query.toLowerCase().split(/\s+/u).filter(Boolean);
  const byName = [];
  const byColumn = [];
  tables.forEach((table, number) => {
    const { names, columns } = haystacks[number];
    const rest = words.filter((word) => !names.includes(word));
    const matched = table.columns.filter((column, place) => rest.some((word) => columns[place].includes(word)));
    if (rest.length === 0) {
      byName.push({ number, columns: [] });
    } else if (rest.every((word) => columns.some((column) => column.includes(word)))) {
      byColumn.push({ number, columns: matched.map((column) => column.name) });
    }
  });
  return [...byName, ...byColumn];
}

const counted = (count, noun) =>
  `${count === 0 ? "no" : count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

function describeRows(table) {
  return table.rows === null ? "rows not known" : (table.isEstimate ? "about " : "") + counted(table.rows, "row");
}

/** For a column of a table; the space is one that no line breaks at. */
const shortRows = (table) => (table.isEstimate ? "about\u00a0" : "") + table.rows.toLocaleString("en");

const capital = (text) => text[0].toUpperCase() + text.slice(1);

const appNames = [...new Set(tables.map((table) => table.app))].sort();
const levels = tables.map((table) => table.level);

/** The first and the last step of the order in which a table, or one of its partitions, is emptied. */
const stepsOf = new Map();
data.order.forEach((step, place) => {
  for (const { table } of step) {
    stepsOf.set(table, [stepsOf.get(table)?.[0] ?? place + 1, place + 1]);
  }
});

const usesOf = tables.map((_, number) => new Set(keysFrom[number].map((key) => key.target)).size);
const usersOf = tables.map((_, number) => new Set(keysTo[number].map((key) => key.source)).size);

const isRigid = (key) => key.timing === "not deferrable";

/** Django's on_delete, if a model has the key, and the server's. */
const describeKey = (key) =>
  `${key.django ? `${key.django} / ` : ""}${key.onDelete}${isRigid(key) ? ", not deferrable" : ""}`;
