// Put a table's rows in the order of a column: by its cells' data-value where they have one, else by their text.
// Rows without a value are last, whatever the order.
function sortRows(heading, order) {
  const body = heading.closest("table").tBodies[0];
  const column = heading.cellIndex;
  const sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => {
    if (!("value" in a.dataset)) return sign * a.textContent.localeCompare(b.textContent);
    const [x, y] = [Number.parseFloat(a.dataset.value), Number.parseFloat(b.dataset.value)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return sign * (x - y);
  };
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  body.append(...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column])));
}

// What a click on a heading asks for: first what it declares, then the other way round.
function nextOrder(heading) {
  const first = heading.dataset.first;
  if (heading.getAttribute("aria-sort") !== first) return first;
  return first === "ascending" ? "descending" : "ascending";
}
