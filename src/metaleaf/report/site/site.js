// The page's state is in its address, so that a link shows what its sender saw: filters, search, order, and the run
// that is open. Reading goes address -> state -> page, and a change by hand goes the same way.

const form = document.getElementById("filters");
const dialog = document.getElementById("run");
const tables = [...document.querySelectorAll(".track")].map((section) => ({
  section,
  headings: [...section.querySelectorAll("thead th")],
  body: section.querySelector("tbody"),
  rows: [...section.querySelectorAll("tbody tr")],
}));
const fields = [...form.elements].filter((field) => field.name);

function readAddress() {
  const fragment = location.hash.slice(1);
  if (/^run-[a-z0-9-]+$/.test(fragment)) return new URLSearchParams({ run: fragment });
  return new URLSearchParams(fragment.includes("=") ? fragment : "");
}

function writeAddress(changes, { replace = false } = {}) {
  const state = readAddress();
  for (const [key, value] of Object.entries(changes)) {
    if (value) state.set(key, value);
    else state.delete(key);
  }
  const address = `#${state}`;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  show();
}

function show() {
  const state = readAddress();
  for (const field of fields) {
    const wanted = state.get(field.name) ?? "";
    if (field.value !== wanted) field.value = wanted;
    if (field.value !== wanted) field.value = "";  // a choice that is not there
  }
  let shown = 0;
  for (const table of tables) shown += filter(table);
  for (const table of tables) order(table, state.get("sort"), state.get("order"));
  const all = tables.reduce((sum, table) => sum + table.rows.length, 0);
  document.getElementById("count").textContent = `${shown} of ${all} rows`;
  open(state.get("run"));
}

// A choice that a table has no column for leaves the table as it is.
function filter({ section, rows, headings }) {
  const words = form.elements.search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const chosen = fields.filter((field) => field.value && rows.some((row) => field.name.toLowerCase() in row.dataset));
  const { value: track = "" } = form.elements.track ?? {};
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLocaleLowerCase();
    const found =
      chosen.every(({ name, value }) => row.dataset[name.toLowerCase()] === value) &&
      words.every((word) => text.includes(word));
    row.hidden = !found;
    shown += found;
  }
  section.hidden = (track !== "" && track !== section.id) || shown === 0;
  headings.forEach((heading, column) => {
    if (heading.querySelector(".axis")) fit(heading, rows.filter((row) => !row.hidden).map((row) => row.cells[column]));
  });
  return section.hidden ? 0 : shown;
}

// The axis of a column of bars spans what is shown, between round numbers that the heading states.
function fit(heading, cells) {
  const bars = cells.map((cell) => cell.querySelector(".bar")).filter(Boolean);
  if (!bars.length) return;
  const number = (bar, name) => Number.parseFloat(bar.dataset[name] ?? bar.dataset.value);
  const least = Math.min(...bars.map((bar) => number(bar, "low")));
  const most = Math.max(...bars.map((bar) => number(bar, "high")));
  const rough = (most - least || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const from = Math.floor(least / step) * step;
  const to = Math.max(Math.ceil(most / step), Math.floor(least / step) + 1) * step;
  const place = (value) => `${((100 * (value - from)) / (to - from)).toFixed(2)}%`;
  for (const bar of bars) {
    const [zero, range, dot] = [".zero", ".range", "circle"].map((name) => bar.querySelector(name));
    zero?.setAttribute("x1", place(0));
    zero?.setAttribute("x2", place(0));
    zero?.toggleAttribute("hidden", from > 0 || to < 0);
    range?.setAttribute("x1", place(number(bar, "low")));
    range?.setAttribute("x2", place(number(bar, "high")));
    dot.setAttribute("cx", place(number(bar, "value")));
  }
  const ends = heading.querySelectorAll(".axis span");
  [from, to].forEach((end, i) => { ends[i].textContent = String(Number(end.toFixed(6))).replace("-", "−"); });
}

function order(table, key, direction) {
  const heading = table.headings.find((one) => one.dataset.key === key);
  const wanted = heading && (["ascending", "descending"].includes(direction) ? direction : heading.dataset.first);
  if (table.ordered === `${wanted} ${key}`) return;  // a row that is moved loses the focus
  table.ordered = `${wanted} ${key}`;
  for (const other of table.headings) other.removeAttribute("aria-sort");
  table.body.append(...table.rows);
  if (heading) sortRows(heading, wanted);
}

function open(id) {
  const run = id && document.getElementById(id);
  if (!run?.classList.contains("run")) {
    if (dialog.open) dialog.close();
    return;
  }
  document.getElementById("run-title").textContent = run.dataset.title;
  dialog.querySelector(".body").replaceChildren(...[...run.children].map((part) => part.cloneNode(true)));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

for (const { headings } of tables) {
  for (const heading of headings) {
    heading.querySelector("button").addEventListener("click", () => {
      writeAddress({ sort: heading.dataset.key, order: nextOrder(heading) });
    });
  }
}
for (const link of document.querySelectorAll("a.shows")) {
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;  // a new tab shows the run, too
    event.preventDefault();
    writeAddress({ run: link.getAttribute("href").slice(1) });
  });
}
form.addEventListener("input", ({ target }) => {
  writeAddress({ [target.name]: target.value }, { replace: target.name === "search" });
});
form.addEventListener("reset", (event) => {
  event.preventDefault();
  writeAddress(Object.fromEntries(fields.map(({ name }) => [name, ""])));
});
form.addEventListener("submit", (event) => event.preventDefault());
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => { if (readAddress().has("run")) writeAddress({ run: "" }); });
addEventListener("popstate", show);
addEventListener("hashchange", show);
form.hidden = false;
show();
