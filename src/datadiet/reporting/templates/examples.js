"use strict";
(() => {
  const table = JSON.parse(document.getElementById("example-data").textContent);
  const KEPT = ["always", "sometimes", "never"];
  const COLOURS = ["#0f8f86", "#d9702b", "#7559c2", "#3679b8", "#b8455a", "#7d8590",
    "#8a7a1f", "#2f9e5b", "#c0509f", "#5a4632", "#4fb3d9", "#9aa83a"];
  const SPARE = 8;  // rows drawn above and below those in sight
  const find = (id) => document.getElementById(id);
  const search = find("search"), label = find("label"), kept = find("kept"), facet = find("facet"), colour = find("colour");
  const list = find("list"), body = find("rows"), count = find("count"), detail = find("detail"), map = find("map");
  const rows = table.id.length;
  const plain = table.text.map((text) => text.trim().toLowerCase().replace(/\s+/g, " "));
  const lower = plain.map((text, row) => `${text}\u0000${table.id[row].toLowerCase()}`);
  const times = new Map();
  for (const text of plain) if (text) times.set(text, (times.get(text) ?? 0) + 1);
  const twice = plain.map((text) => (times.get(text) ?? 0) > 1);
  const columns = {
    hard: table.hard, text: table.text, label: table.label.map((place) => table.names[place]), kept: table.kept,
    confidence: table.confidence, last: table.last, id: table.id,
  };
  let order = { name: "hard", sign: 1 }, shown = [], first = -1, chosen = -1;

  const options = (select, names) => {
    for (const [place, name] of names.entries()) {
      const option = document.createElement("option");
      option.value = String(place);
      option.textContent = name;
      select.append(option);
    }
  };
  const tally = (values, size) => {
    const counts = new Array(size).fill(0);
    for (const value of values) counts[value]++;
    return counts;
  };
  const labels = tally(table.label, table.names.length), keepings = tally(table.kept, KEPT.length);
  // answers of a language model are texts, most of them once: the search finds them
  const free = table.names.length > 500 || table.names.length > Math.max(40, rows / 3);
  label.parentElement.hidden = colour.querySelector("[value=label]").hidden = free;
  options(label, label.parentElement.hidden ? [] : table.names.map((name, place) => `${name} (${labels[place].toLocaleString("en")})`));
  options(kept, KEPT.map((name, place) => `${name} (${keepings[place].toLocaleString("en")})`));

  const compare = (a, b) => {
    const values = columns[order.name], x = values[a], y = values[b];
    if (x === y) return a - b;
    if (x === null || y === null) return x === null ? 1 : -1;  // what has no value comes last either way
    return order.sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  };

  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    shown = [];
    for (let row = 0; row < rows; row++) {
      if (label.value !== "" && table.label[row] !== Number(label.value)) continue;
      if (kept.value !== "" && table.kept[row] !== Number(kept.value)) continue;
      if (facet.value === "suspects" && !table.suspect[row]) continue;
      if (facet.value === "duplicates" && !twice[row]) continue;
      if (wanted && !lower[row].includes(wanted)) continue;
      shown.push(row);
    }
    shown.sort(compare);
    count.textContent = `${shown.length.toLocaleString("en")} of ${rows.toLocaleString("en")} examples`;
    list.scrollTop = 0;
    first = -1;
    draw();
    plot();
  };

  const cell = (line, text, name) => {
    const made = document.createElement("td"), inner = document.createElement("span");
    inner.textContent = text === null ? "–" : String(text);  // never innerHTML: this is text from data
    if (name) made.className = name;
    if (name === "text") made.dir = "auto";
    made.append(inner);
    line.append(made);
  };

  const parts = (row, most = Infinity) => {  // every second piece was pruned; the list begins near the first of these
    const pieces = table.pieces?.[row];
    return pieces && pieces.map((text, place) => {
      if (place % 2 === 0) return place === 0 && text.length > most ? `\u2026${text.slice(-most)}` : text;
      const part = document.createElement("s");
      part.textContent = text;
      return part;
    });
  };

  const spark = (line, history) => {
    const made = document.createElement("td"), step = 60 / Math.max(1, history.length - 1);
    const points = [...history].map((digit, place) => [place * step, digit]).filter(([, digit]) => digit !== " ");
    const at = ([x, digit]) => `${(x + 2).toFixed(1)},${(19 - parseInt(digit, 36) / 35 * 16).toFixed(1)}`;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 64 22");
    svg.setAttribute("aria-hidden", "true");
    const shape = document.createElementNS(svg.namespaceURI, "polyline");
    shape.setAttribute("points", points.map(at).join(" "));
    svg.append(shape);
    if (points.length) {
      const dot = document.createElementNS(svg.namespaceURI, "circle");
      const [x, y] = at(points[points.length - 1]).split(",");
      for (const [name, value] of Object.entries({ cx: x, cy: y, r: 2 })) dot.setAttribute(name, value);
      svg.append(dot);
    }
    made.className = "history";
    made.append(svg);
    line.append(made);
  };

  const spacer = (height) => {
    const line = document.createElement("tr");
    line.className = "spacer";
    line.style.height = `${height}px`;
    line.setAttribute("aria-hidden", "true");
    return line;
  };

  const draw = () => {
    const height = parseFloat(getComputedStyle(list).getPropertyValue("--row"));
    const start = Math.max(0, Math.floor(list.scrollTop / height) - SPARE);
    if (start === first) return;
    first = start;
    const end = Math.min(shown.length, start + Math.ceil(list.clientHeight / height) + 2 * SPARE);
    const lines = [];
    for (const row of shown.slice(start, end)) {
      const line = document.createElement("tr");
      line.tabIndex = 0;
      line.dataset.row = String(row);
      if (row === chosen) line.className = "chosen";
      cell(line, table.hard[row]);
      cell(line, table.text[row], "text");
      const pruned = parts(row, 60);
      if (pruned) {
        const whole = document.createElement("bdi");  // the lines of the cell's box are of one child
        whole.append(...pruned);
        line.lastChild.firstChild.replaceChildren(whole);
      }
      cell(line, table.names[table.label[row]], "label");
      cell(line, KEPT[table.kept[row]]);
      cell(line, table.confidence[row]);
      cell(line, table.last[row]);
      spark(line, table.history[row]);
      cell(line, table.id[row], "id");
      lines.push(line);
    }
    const above = start > 0 ? [spacer(start * height)] : [], below = shown.length - end;
    body.replaceChildren(...above, ...lines, ...(below > 0 ? [spacer(below * height)] : []));
  };

  const choose = (row) => {
    chosen = row;
    first = -1;
    draw();
    const signs = [table.suspect[row] && "suspected wrong label", twice[row] && "its text comes more than once"];
    const facts = [table.names[table.label[row]], `kept ${KEPT[table.kept[row]]}`, ...signs].filter(Boolean);
    detail.replaceChildren(`${table.id[row]}: `, ...(parts(row) ?? [table.text[row]]), ` (${facts.join("; ")})`);
  };

  const write = (text, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const quoted = (value) => {
    const text = value === null ? "" : String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;  // no formula in a spreadsheet
    return `"${safe.replaceAll('"', '""')}"`;
  };
  find("copy").addEventListener("click", async () => {
    const text = shown.map((row) => table.id[row]).join("\n");
    try {
      await navigator.clipboard.writeText(text);
      count.textContent = `${shown.length.toLocaleString("en")} ids copied`;
    } catch {
      detail.textContent = text;
    }
  });
  find("export").addEventListener("click", () => {
    const head = ["id", "text", "label", "kept", "rank", "confidence", "variability", "last", "suspect"];
    const line = (row) => [
      table.id[row], table.text[row], table.names[table.label[row]], KEPT[table.kept[row]], table.hard[row],
      table.confidence[row], table.variability[row], table.last[row], table.suspect[row],
    ];
    write([head, ...shown.map(line)].map((cells) => cells.map(quoted).join(",")).join("\r\n"), "examples.csv");
  });

  for (const head of document.querySelectorAll("#examples th[data-column]")) {
    head.querySelector("button").addEventListener("click", () => {
      const name = head.dataset.column;
      order = { name, sign: order.name === name ? -order.sign : 1 };
      for (const other of document.querySelectorAll("#examples th[data-column]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
      filter();
    });
  }

  // the data map: a point per row that the filters leave
  const mapped = table.confidence.some((value) => value !== null);
  const end = (values, ends) => ends.find((last) => values.every((value) => (value ?? 0) <= last)) ?? ends.at(-1);
  const scales = () => {
    const ratio = window.devicePixelRatio || 1, width = map.clientWidth, height = map.clientHeight;
    const most = end(table.variability, [0.01, 0.05, 0.25, 0.5]), top = end(table.confidence, [0.01, 0.05, 0.25, 1]);
    const x = (value) => 42 + value / most * (width - 62), y = (value) => height - 24 - value / top * (height - 36);
    return { ratio, width, height, x, y, most, top };
  };
  const colourOf = (row) => {
    if (colour.value === "label") return COLOURS[table.label[row] % COLOURS.length];
    if (colour.value === "suspects") return table.suspect[row] ? COLOURS[4] : COLOURS[5];
    return [COLOURS[0], COLOURS[1], COLOURS[5]][table.kept[row]];
  };
  const plot = () => {
    if (!mapped) return;
    const { ratio, width, height, x, y, most, top } = scales(), ink = getComputedStyle(document.body).color;
    map.width = width * ratio;
    map.height = height * ratio;
    const pen = map.getContext("2d");
    pen.scale(ratio, ratio);
    pen.fillStyle = ink;
    pen.font = "12px sans-serif";
    pen.textAlign = "center";
    for (const value of [0, most / 2, most]) pen.fillText(String(value), x(value), height - 6);
    pen.textAlign = "right";
    for (const value of [0, top / 2, top]) pen.fillText(String(value), 36, y(value) + 4);
    pen.globalAlpha = shown.length > 2000 ? 0.35 : 0.7;
    for (const row of shown) {
      if (table.confidence[row] === null) continue;
      pen.fillStyle = colourOf(row);
      pen.fillRect(x(table.variability[row] ?? 0) - 2, y(table.confidence[row]) - 2, 4, 4);
    }
  };
  const nearest = (event) => {
    const { x, y } = scales(), box = map.getBoundingClientRect();
    let best = -1, least = 144;
    for (const row of shown) {
      if (table.confidence[row] === null) continue;
      const across = x(table.variability[row] ?? 0) - event.clientX + box.left;
      const up = y(table.confidence[row]) - event.clientY + box.top, distance = across * across + up * up;
      if (distance < least) [best, least] = [row, distance];
    }
    return best;
  };
  if (mapped) {
    map.addEventListener("pointermove", (event) => { const row = nearest(event); if (row >= 0) choose(row); });
    map.addEventListener("click", (event) => {
      const row = nearest(event), place = shown.indexOf(row);
      if (place < 0) return;
      list.scrollTop = place * parseFloat(getComputedStyle(list).getPropertyValue("--row"));
      choose(row);
    });
    window.addEventListener("resize", plot);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", plot);
    colour.addEventListener("input", plot);
  } else find("map-part").hidden = true;

  const picked = (event) => { const line = event.target.closest("tr[data-row]"); if (line) choose(Number(line.dataset.row)); };
  body.addEventListener("click", picked);
  body.addEventListener("keydown", (event) => { if (event.key === "Enter") picked(event); });
  list.addEventListener("scroll", draw);
  for (const control of [search, label, kept, facet]) control.addEventListener("input", filter);
  filter();
})();
