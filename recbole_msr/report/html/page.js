for (const table of document.querySelectorAll("table.sortable")) {
  const head = [...table.tHead.rows[0].cells];
  head.forEach((th, column) => th.querySelector("button").addEventListener("click", () => {
    const up = th.getAttribute("aria-sort") !== "ascending";
    head.forEach(other => other.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[column], words = cell.textContent.trim();
      return "value" in cell.dataset ? Number(cell.dataset.value) : words === "–" ? "" : words;
    };
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");  // nothing is last, whichever way
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      const order = typeof a === "number" ? a - b : a.localeCompare(b);
      return up ? order : -order;
    };
    const rows = [...table.tBodies[0].rows].map(row => [key(row), row]);
    rows.sort((a, b) => compare(a[0], b[0]));
    table.tBodies[0].append(...rows.map(pair => pair[1]));
  }));
}
for (const box of document.querySelectorAll(".choice")) {
  const select = box.querySelector("select");  // the first: there may be a choice inside an option
  const show = () => [...box.children].filter(child => child.classList.contains("option"))
    .forEach((option, number) => { option.hidden = number !== select.selectedIndex; });
  select.addEventListener("change", show);
  show();
}
