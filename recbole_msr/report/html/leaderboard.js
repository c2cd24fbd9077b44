for (const board of document.querySelectorAll(".board")) {
  const table = board.querySelector("table"), output = board.querySelector("output");
  const value = name => board.querySelector(`[name=${name}]`).value;
  const update = () => {
    const [metric, columns] = [value("metric"), value("columns")];
    for (const cell of table.querySelectorAll("[data-category]")) {
      const [group, ofMetric] = cell.dataset.category.split(" ");
      cell.hidden = Boolean(group && columns !== "all" && group !== columns || ofMetric && ofMetric !== metric);
    }
    const words = value("name").toLowerCase().split(/\s+/).filter(Boolean);
    const allowed = (row, name) => {
      const boxes = [...board.querySelectorAll(`input[name=${name}]`)];
      return !boxes.length || boxes.some(box => box.checked && box.value === row.dataset[name]);
    };
    const rows = [...table.tBodies[0].rows];
    for (const row of rows)
      row.hidden = !(words.every(word => row.dataset.name.toLowerCase().includes(word)) &&
        allowed(row, "kind") && allowed(row, "status"));
    output.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} models`;
  };
  for (const event of ["input", "change"]) board.addEventListener(event, update);
  update();
}
