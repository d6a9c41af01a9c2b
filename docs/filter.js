// Tables: names of tests may break over lines, other code may not; above every long one is a box, and the rows that hold
// all of its words stay.
(() => {
  "use strict";
  for (const code of document.querySelectorAll(".md-typeset td code"))
    code.classList.toggle("long", code.textContent.length > 40);
  const LONG = 8;
  for (const table of document.querySelectorAll(".md-typeset table:not([class])")) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < LONG) continue;
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const label = document.createElement("label");
    const box = document.createElement("input");
    const count = document.createElement("span");
    label.className = "filter";
    label.append("Filter ", box, count);
    box.type = "search";
    box.placeholder = "words, such as: embeddings k-means";
    box.size = 36;
    count.setAttribute("role", "status");
    const show = () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, place) => {
        row.hidden = !words.every((word) => texts[place].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = words.length ? ` ${shown} of ${rows.length} rows` : "";
    };
    box.addEventListener("input", show);
    // the theme wraps tables that are wider than the page
    (table.closest(".md-typeset__scrollwrap") ?? table).before(label);
  }
})();
