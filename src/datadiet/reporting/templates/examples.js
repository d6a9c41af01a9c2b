"use strict";
(() => {
  const table = JSON.parse(document.getElementById("example-data").textContent);
  const KEPT = ["always", "sometimes", "never"], PAGE = 50;
  const find = (id) => document.getElementById(id);
  const search = find("search"), label = find("label"), kept = find("kept"), sort = find("sort");
  const body = find("rows"), count = find("count"), back = find("back"), next = find("next");
  const lower = table.text.map((text, row) => (text + "\u0000" + table.id[row]).toLowerCase());
  let page = 0, shown = [];

  for (const [place, name] of table.names.entries()) {
    const option = document.createElement("option");
    option.value = String(place);
    option.textContent = name;
    label.append(option);
  }

  const orders = {
    hard: (a, b) => table.hard[a] - table.hard[b],
    easy: (a, b) => table.hard[b] - table.hard[a],
    last: (a, b) => (table.last[b] ?? -1) - (table.last[a] ?? -1),
    confidence: (a, b) => (table.confidence[a] ?? 2) - (table.confidence[b] ?? 2),
  };

  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    shown = [];
    for (let row = 0; row < table.id.length; row++) {
      if (label.value !== "" && table.label[row] !== Number(label.value)) continue;
      if (kept.value !== "" && table.kept[row] !== Number(kept.value)) continue;
      if (wanted && !lower[row].includes(wanted)) continue;
      shown.push(row);
    }
    shown.sort(orders[sort.value]);
    page = 0;
    draw();
  };

  const cell = (line, text, name) => {
    const made = document.createElement("td");
    made.textContent = text === null ? "–" : String(text);  // never innerHTML: this is text from data
    if (name) made.className = name;
    if (name === "text") made.dir = "auto";
    line.append(made);
  };

  const draw = () => {
    body.replaceChildren();
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    for (const row of shown.slice(page * PAGE, (page + 1) * PAGE)) {
      const line = document.createElement("tr");
      cell(line, table.hard[row]);
      cell(line, table.text[row], "text");
      cell(line, table.names[table.label[row]], "label");
      cell(line, KEPT[table.kept[row]]);
      cell(line, table.confidence[row]);
      cell(line, table.last[row]);
      cell(line, table.id[row], "id");
      body.append(line);
    }
    count.textContent = `${shown.length.toLocaleString("en")} examples, page ${page + 1} of ${pages}`;
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
  };

  back.addEventListener("click", () => { page--; draw(); });
  next.addEventListener("click", () => { page++; draw(); });
  for (const control of [search, label, kept, sort]) control.addEventListener("input", filter);
  filter();
})();
