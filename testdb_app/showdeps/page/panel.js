// The panel beside the graph: the whole, what a search has found, or one table.

const panel = document.getElementById("panel");

const tableLink = (number, text = tables[number].id) =>
  make("button", { type: "button", class: "link", "data-table": number }, text);
const idLink = (id) => (numberOf.has(id) ? tableLink(numberOf.get(id)) : id);
const muted = (...content) => make("span", { class: "muted" }, ...content);
const section = (title, ...content) => [make("h3", {}, title), ...content];

function showPanel(...content) {
  panel.replaceChildren(...content.flat(Infinity).filter((each) => each !== null));
  panel.scrollTop = 0;
}

function heading(text, ...buttons) {
  return make("div", { class: "head" }, make("h2", { tabindex: -1 }, text), ...buttons);
}

function showWhole() {
  const first = data.reverse ? "referenced tables to the left" : "referencing tables to the left, referenced tables to the right";
  showPanel(
    heading(data.cyclesOnly ? "Cycles of the dependency graph" : "Dependency graph"),
    make("p", {}, `A box is a table or an app, a curve a foreign key from the referencing to the referenced table: ${first}. `),
    make("p", {}, "Choose a table to see all that it depends on and all that depends on it. Keys 1 to 9 show only its neighbours."),
    section(
      "Legend",
      make(
        "ul",
        { class: "legend" },
        make("li", {}, makeSample("plain"), "foreign key"),
        make("li", {}, makeSample("ring"), "on a cycle that can be deferred"),
        make("li", {}, makeSample("stuck-ring"), "on a cycle that cannot be deferred"),
        make("li", {}, makeSample("towards"), "what the chosen table depends on"),
        make("li", {}, makeSample("from"), "what depends on the chosen table"),
        make("li", {}, makeSample("plain rigid", "M7 2v8"), "not deferrable: a bar at its start"),
        make("li", {}, muted("#3 is the step of the deletion order, ← 2 the tables that depend on it directly, → 1 those that it references. At a curve: Django’s on_delete / the server’s. A dashed box has no model.")),
      ),
    ),
    listOfTables(),
    cycles.length === 0 ? [] : section("Cycles", make("ul", {}, cycles.map(describeCycle))),
    data.modelsWithoutTable.length === 0
      ? []
      : section(
          "Models without a table",
          make("ul", {}, data.modelsWithoutTable.map((each) => make("li", {}, `${each.model}: `, each.table, muted(` (${each.reason})`)))),
        ),
    listOnDemand(orderTitle(), data.order, { open: data.order.length <= 100 }),
    data.reverse ? null : make("p", { class: "muted" }, "A reset empties only tables that hold rows, and leaves django_migrations alone."),
  );
}

/** The tables that the filter lets through, as a list for the keyboard and for screen readers. */
function listOfTables() {
  const shown = filtered();
  const body = make("tbody", {});
  const build = () =>
    body.childElementCount === 0 &&
    body.append(
      ...shown.map((number) => {
        const table = tables[number];
        const cycle = cycleOf.get(table.cycle);
        const mark = cycle ? make("span", { class: cycle.deferrable ? "caution" : "warning" }, ` cycle ${cycle.number}`) : null;
        const cells = [table.app, (stepsOf.get(number) ?? []).join("–").replace(/^(\d+)–\1$/u, "$1"), String(table.level), String(usersOf[number]), String(usesOf[number])];
        return make("tr", {}, make("th", { scope: "row" }, tableLink(number, table.label), mark), cells.map((cell) => make("td", {}, cell)));
      }),
    );
  const titles = ["Table", "App", "Step", "Level", "←", "→"];
  const list = make("table", { class: "list" }, make("thead", {}, make("tr", {}, titles.map((title) => make("th", { scope: "col", "aria-label": { "←": "Used by", "→": "Uses" }[title] }, title)))), body);
  const isOpen = shown.length <= 300;
  if (isOpen) {
    build();
  }
  return make("details", { open: isOpen, toggle: build }, make("summary", {}, `Tables (${shown.length.toLocaleString("en")})`), make("div", { class: "wide" }, list));
}

const orderTitle = () => (data.reverse ? "The order to insert in" : "The order to delete in, as a reset does");

function describeCycle(cycle) {
  const ring = cycle.ring.flatMap((id, place) => [place > 0 ? " → " : "", idLink(id)]);
  const rest = cycle.tables.length - new Set(cycle.ring.filter((id) => id !== "itself")).size;
  return make(
    "li",
    {},
    make("strong", {}, `Cycle ${cycle.number}`),
    ": ",
    ring,
    cycle.ring.length === 0 ? counted(rest, "table") : rest > 0 ? ` and ${counted(rest, "more table")}` : null,
    make("span", { class: cycle.deferrable ? "caution" : "warning" }, cycle.deferrable ? " deferrable" : " not deferrable"),
  );
}

/** The steps of an order; a list of a thousand is made when it is asked for. */
function listOnDemand(title, steps, { open }) {
  const list = make("ol", {});
  const build = () => list.childElementCount === 0 && list.append(...steps.map(describeStep));
  if (open) {
    build();
  }
  return make("details", { open, toggle: build }, make("summary", {}, `${title} (${steps.length.toLocaleString("en")})`), list);
}

function describeStep(step) {
  const names = step.flatMap((entry, place) => [place > 0 ? ", " : "", tableLink(entry.table, entry.id)]);
  return make("li", {}, names, step.length > 1 ? muted(" (a cycle: one statement)") : null);
}

function showHits(query, hits) {
  const shown = hits.slice(0, 200);
  showPanel(
    heading(capital(`${counted(hits.length, "table")} for “${query}”`)),
    hits.length === 0 ? make("p", {}, "Names of tables, models and columns are searched; every word has to be in one of them.") : null,
    make("ul", {}, shown.map(({ number, columns }) => make("li", {}, tableLink(number), columns.length > 0 ? muted(` ${columns.join(", ")}`) : null))),
    hits.length > shown.length ? make("p", { class: "muted" }, `and ${counted(hits.length - shown.length, "more table")}`) : null,
  );
}

function showTable(number, towards, from, onClose) {
  const table = tables[number];
  const close = make("button", { type: "button", class: "plain", click: onClose, "aria-label": "Close: back to the whole graph" }, "Close");
  showPanel(
    heading(table.id, close),
    make("p", {}, table.models.length > 0 ? table.models.join(", ") : make("span", { class: table.noModel ? "caution" : "muted" }, "no model")),
    make("p", { class: "muted" }, [`level ${table.level}`, describeRows(table) + (table.isEstimate ? " (the server's estimate)" : ""), ...table.notes].join(" · ")),
    table.cycle ? make("ul", {}, describeCycle(cycleOf.get(table.cycle))) : null,
    relatives("Depends on", "towards", number, towards, keysFrom[number], (key) => key.target),
    relatives("What depends on it", "from", number, from, keysTo[number], (key) => key.source),
    describeOrder(number, from),
    describeColumns(table),
    describeKeys(table, number),
    describeSequences(table),
    table.partitions.length > 0 ? section(`Partitions (${table.partitions.length})`, make("ul", {}, table.partitions.map((id) => make("li", {}, id)))) : null,
  );
}

/** All that a table reaches: directly with the columns of the keys, then through others. */
function relatives(title, kind, number, found, direct, end) {
  const [near, far] = [[], []];
  for (const [other, step] of found) {
    (step === 1 ? near : far).push(other);
  }
  const byName = (one, other) => one - other;
  const columnsOf = (other) => direct.filter((key) => end(key) === other).map((key) => key.columns).join("; ");
  const name = (other) => (other === number ? [tableLink(other), muted(" (itself, by a cycle)")] : [tableLink(other)]);
  return [
    make("h3", {}, make("span", { class: `sort ${kind}` }, title), ` (${found.size.toLocaleString("en")})`),
    found.size === 0 ? make("p", { class: "muted" }, data.total > tables.length ? "nothing of what is shown" : "nothing") : null,
    near.length > 0
      ? make("ul", {}, near.sort(byName).map((other) => make("li", {}, ...name(other), muted(` by ${columnsOf(other)}`))))
      : null,
    far.length > 0 ? make("p", { class: "muted" }, "through others:") : null,
    far.length > 0 ? make("ul", {}, far.sort(byName).map((other) => make("li", {}, ...name(other)))) : null,
  ];
}

/** A table's part of the order: whatever depends on it goes before it (in reverse, after it). */
function describeOrder(number, from) {
  const steps = data.order
    .map((step) => step.filter((entry) => entry.table === number || from.has(entry.table)))
    .filter((step) => step.length > 0);
  const title = data.reverse ? "Order to insert it and its dependents in" : "Order in which a reset would empty it";
  return steps.length === 0 ? null : listOnDemand(title, steps, { open: steps.length <= 30 });
}

function describeColumns(table) {
  if (table.columns.length === 0) {
    return null;
  }
  const rows = table.columns.map((column) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, column.name),
      make("td", {}, column.type),
      make("td", {}, column.nullable ? "null" : "not null"),
      make("td", {}, [column.generated, column.default].filter(Boolean).join(" ")),
    ),
  );
  const head = ["Column", "Type", "Null", "Default"].map((title) => make("th", { scope: "col" }, title));
  return section(
    `Columns (${table.columns.length})`,
    make("div", { class: "wide" }, make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows))),
  );
}

function describeKeys(table, number) {
  const unique = table.unique.map((key) =>
    make("li", {}, key.primary ? "primary key " : "unique ", `(${key.columns})`, key.partialIndex ? muted(` of the rows of index ${key.partialIndex}`) : null),
  );
  const foreign = keysFrom[number].map((key) =>
    make(
      "li",
      {},
      `(${key.columns}) → `,
      tableLink(key.target),
      ` (${key.referenced})`,
      muted(` ${key.django ? `Django ${key.django}, server ` : ""}${key.onDelete}, ${key.timing}`),
      key.cycle ? make("span", { class: "caution" }, ` cycle ${key.cycle}`) : null,
      key.owners.length > 0 ? muted(` of ${key.owners.length > 1 ? counted(key.owners.length, "partition") : key.owners[0]}`) : null,
      muted(` · ${key.name}`),
    ),
  );
  const all = [...unique, ...foreign];
  return all.length === 0 ? null : section(`Keys (${all.length})`, make("ul", {}, all));
}

function describeSequences(table) {
  return table.sequences.length === 0
    ? null
    : section(
        `Sequences (${table.sequences.length})`,
        make(
          "ul",
          {},
          table.sequences.map((sequence) =>
            make("li", {}, sequence.id, muted(` for ${sequence.column} (${sequence.how}, ${sequence.type}, from ${sequence.start} by ${sequence.increment})`)),
          ),
        ),
      );
}
