// Everything the page shows by choice is one state, and the state is the address: #set=...&sort=psnr_y:bicubic&order=desc

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const grid = byId("grid");
const rows = [...grid.querySelectorAll(".row")];
const selects = [...document.querySelectorAll("select[data-key]")];
const near = new Set(); // rows on the screen or close to it: only their whole pictures are decoded
let state = { ...data.state };

// --- the address

function isValid(key, value) {
  switch (key) {
    case "set": return value === "all" || data.sets.includes(value);
    case "sort": return value === "name" || (splitSort(value)[0] in data.figures && data.models.includes(splitSort(value)[1]));
    case "minus": return value === "" || data.models.includes(value);
    case "order": return value === "asc" || value === "desc";
    case "left": case "right": return data.sides.includes(value);
    case "at": return /^\d+(\.\d+)?$/.test(value) && Number(value) <= 100;
    default: { // axes of the plots
      const select = selects.find((s) => s.dataset.key === key);
      return select !== undefined && [...select.options].some((o) => o.value === value);
    }
  }
}

function readAddress() {
  if (!location.hash.includes("=")) return false; // a link to a section
  const asked = new URLSearchParams(location.hash.slice(1));
  state = { ...data.state };
  for (const key of Object.keys(state)) {
    if (asked.has(key) && isValid(key, asked.get(key))) state[key] = asked.get(key);
  }
  return true;
}

function writeAddress() {
  const changed = Object.entries(state).filter(([key, value]) => value !== data.state[key]);
  // a colon needs no escape in a fragment, and the link reads better with it
  const text = new URLSearchParams(changed).toString().replaceAll("%3A", ":");
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function change(part) {
  state = { ...state, ...part };
  apply();
  writeAddress();
}

// --- order and choice of rows

function splitSort(sort) {
  const colon = sort.indexOf(":"); // no name of a figure has one; names of models may
  return [sort.slice(0, colon), sort.slice(colon + 1)];
}

function sortValue(row) {
  const [figure, model] = splitSort(state.sort);
  const values = data.values[row.dataset.index];
  const value = values[model]?.[figure] ?? null;
  if (!state.minus || value === null) return value;
  const other = values[state.minus]?.[figure] ?? null;
  return other === null ? null : value - other;
}

function sortRows() {
  const sign = state.order === "desc" ? -1 : 1;
  const index = (row) => Number(row.dataset.index);
  if (state.sort === "name") {
    const rank = (row) => data.sets.indexOf(row.dataset.set);
    const byName = (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", { numeric: true });
    rows.sort((a, b) => rank(a) - rank(b) || sign * (byName(a, b) || index(a) - index(b)));
  } else {
    const values = new Map(rows.map((row) => [row, sortValue(row)]));
    rows.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (x === null || y === null) return (x === null) - (y === null) || index(a) - index(b); // without a number: last
      return sign * (x - y) || index(a) - index(b);
    });
  }
  // where the order is already there, nothing moves, and what has the focus keeps it
  if (rows.some((row, i) => grid.children[i] !== row)) grid.append(...rows);
}

function showSortValues() {
  const [figure, model] = splitSort(state.sort);
  const info = data.figures[figure];
  for (const row of rows) {
    const value = info ? sortValue(row) : null;
    const text = value === null ? "n/a" : value.toFixed(info?.digits).replace("-", "\u2212");
    const what = info && `${info.label} of ${model}${state.minus ? ` \u2212 ${state.minus}` : ""}`;
    row.querySelector(".sorted").textContent = info ? `${what}: ${text}` : "";
  }
}

function filterRows() {
  for (const row of rows) row.hidden = state.set !== "all" && row.dataset.set !== state.set;
  const shown = rows.filter((row) => !row.hidden).length;
  byId("count").textContent = `${shown} of ${rows.length} images`;
}

// --- the slider

function fill(row) {
  const sides = JSON.parse(row.querySelector(".sides").textContent);
  const { name } = row.dataset;
  for (const [selector, caption, asked] of [[".over", ".caption.left", state.left], [".under", ".caption.right", state.right]]) {
    const side = asked in sides ? asked : Object.keys(sides)[0]; // a photo without HR
    const image = row.querySelector(selector);
    if (image.dataset.side !== side) {
      image.dataset.side = side;
      image.src = sides[side];
      image.alt = `${name}, ${side}`;
      image.classList.toggle("lr", side === "LR");
    }
    row.querySelector(caption).textContent = side === asked ? side : `${side} (there is no ${asked})`;
  }
}

function moveDivider() {
  for (const row of rows) {
    row.querySelector(".compare").style.setProperty("--at", `${state.at}%`);
    const range = row.querySelector("input");
    if (range.value !== state.at) range.value = state.at;
  }
  grid.dataset.at = state.at;
}

// --- all of it

function apply() {
  for (const select of selects) select.value = state[select.dataset.key];
  const byName = state.sort === "name";
  byId("sort-figure").value = byName ? "name" : splitSort(state.sort)[0];
  if (!byName) byId("sort-model").value = splitSort(state.sort)[1];
  for (const label of document.querySelectorAll(".by-figure")) label.hidden = byName;
  byId("order").textContent = state.order === "desc" ? "↓ descending" : "↑ ascending";
  for (const plot of document.querySelectorAll("#tradeoffs [data-x]")) {
    const { x, y } = plot.dataset;
    plot.hidden = x === "seconds" ? y !== state.quality : x !== state.x || y !== state.y;
  }
  filterRows();
  sortRows();
  showSortValues();
  moveDivider();
  near.forEach(fill);
  Object.assign(grid.dataset, { set: state.set, sort: state.sort, order: state.order, left: state.left, right: state.right });
}

for (const select of selects) select.addEventListener("change", () => change({ [select.dataset.key]: select.value }));
for (const id of ["sort-figure", "sort-model"]) {
  byId(id).addEventListener("change", () => {
    const figure = byId("sort-figure").value;
    change({ sort: figure === "name" ? "name" : `${figure}:${byId("sort-model").value}` });
  });
}
byId("order").addEventListener("click", () => change({ order: state.order === "desc" ? "asc" : "desc" }));
byId("swap").addEventListener("click", () => change({ left: state.right, right: state.left }));
grid.addEventListener("input", (event) => { state.at = event.target.value; moveDivider(); });
grid.addEventListener("change", writeAddress); // once, when the divider is let go: browsers limit the rate
addEventListener("hashchange", () => { if (readAddress()) apply(); });

const MARGIN = 600; // px beyond the screen
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) { near.add(target); fill(target); } else near.delete(target);
  }
}, { rootMargin: `${MARGIN}px` });
readAddress();
apply();
for (const row of rows) {
  observer.observe(row);
  if (!row.hidden && row.getBoundingClientRect().top < innerHeight + MARGIN) near.add(row); // the observer tells a frame later
}
near.forEach(fill);
