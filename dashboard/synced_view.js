// Rows of pictures that zoom and pan as one. Text from Python is only ever set as text, never as HTML.
// A view is [zoom, x, y]: zoom 1 = the whole image; x, y = what lies in the middle, 0..1 of width and height.

const LARGEST = 16;
const STEP = 1.25;

function make(tag, className, parent, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

function outlines(panel, data, plane) {
  if (!panel.outlines.length) return;
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", `0 0 ${data.width} ${data.height}`);
  drawing.setAttribute("preserveAspectRatio", "none");
  const path = panel.outlines.map((ring) => `M${ring.map((point) => point.join(" ")).join("L")}Z`).join("");
  for (const name of ["under", "over"]) { // white on black: it shows on any tissue
    const line = document.createElementNS(space, "path");
    line.setAttribute("d", path);
    line.setAttribute("class", name);
    drawing.appendChild(line);
  }
  plane.appendChild(drawing);
}

function drawPanel(panel, data, parent, titled) {
  const figure = make("figure", "panel", parent);
  const stage = make("div", "stage", figure);
  stage.style.aspectRatio = `${data.width} / ${data.height}`;
  stage.setAttribute("role", "img");
  stage.setAttribute("aria-label", panel.alt);
  const plane = make("div", "plane", stage);
  for (const [name, opacity] of panel.layers) {
    const picture = make("img", name === "image" ? "pixels" : "", plane);
    picture.alt = "";
    picture.draggable = false;
    picture.style.opacity = opacity;
    picture.src = data.pictures[name];
  }
  outlines(panel, data, plane);
  make("div", "cross", stage).hidden = true;
  if (panel.bar && data.bars.length) {
    const bar = make("div", "bar", stage);
    make("span", "", bar);
    make("i", "", bar);
  }
  if (titled) make("figcaption", "", figure, panel.title);
}

function drawRow(row, data, parent, titled) {
  const head = make("div", "head", parent);
  const name = make("span", "name", head);
  make("span", "dot", name).style.background = row.colour;
  make("b", "", name, row.label);
  make("span", row.right === false ? "verdict wrong" : "verdict", head, row.verdict);
  if (row.probability !== null) {
    const scale = make("span", "scale", head);
    scale.setAttribute("role", "img");
    scale.setAttribute("aria-label", row.probability_words);
    scale.title = row.probability_words;
    make("i", "", scale).style.width = `${100 * row.probability}%`;
    if (row.threshold !== null) make("u", "", scale).style.left = `${100 * row.threshold}%`;
    make("span", "muted", head, row.probability_words);
  }
  if (row.leaks) make("span", "leak", head, row.leaks).title = row.leaks_why;
  if (row.note) make("div", "note", parent, row.note);
  const panels = make("div", "panels", parent);
  panels.style.gridTemplateColumns = `repeat(${data.columns}, minmax(0, 1fr))`;
  for (const panel of row.panels) drawPanel(panel, data, panels, titled);
}

function drawTools(data, parent, act) {
  const tools = make("div", "tools", parent);
  for (const [label, words, action] of [["\u2212", "Zoom out", "out"], ["+", "Zoom in", "in"], ["Fit", "Whole image", "fit"], ["Full screen", "Full screen, and back", "full"]]) {
    const button = make("button", "", tools, label);
    button.type = "button";
    button.title = words;
    button.setAttribute("aria-label", words);
    button.onclick = () => act(action);
  }
  make("output", "zoom", tools);
  make("span", "muted hint", tools, "Double-click zooms, drag moves \u00b7 keys + \u2212 0 F");
  const legend = make("span", "legend", tools);
  make("span", "", legend, data.legend.low);
  make("i", "", legend).style.background = `linear-gradient(to right, ${data.legend.colours.join(",")})`;
  make("span", "", legend, data.legend.high);
}

function within([zoom, x, y]) {
  const z = Math.min(LARGEST, Math.max(1, zoom));
  const half = 0.5 / z;
  return [z, Math.min(1 - half, Math.max(half, x)), Math.min(1 - half, Math.max(half, y))];
}

function show(root, data, view) {
  const [zoom, x, y] = view;
  for (const plane of root.querySelectorAll(".plane"))
    plane.style.transform = `translate(${100 * (0.5 - x * zoom)}%, ${100 * (0.5 - y * zoom)}%) scale(${zoom})`;
  const stage = root.querySelector(".stage");
  if (!stage) return;
  root.style.setProperty("--zoom", zoom); // lines keep their width
  const perPixel = (stage.clientWidth * zoom) / data.width;
  root.classList.toggle("near", perPixel >= 3); // the file's own pixels, as squares
  root.classList.toggle("zoomed", zoom > 1);
  root.querySelector(".zoom").textContent = `${zoom.toFixed(1)}\u00d7`;
  const longest = stage.clientWidth / 4 / perPixel;
  const [pixels, label] = data.bars.filter((bar) => bar[0] <= longest).pop() || data.bars[0] || [0, ""];
  for (const bar of root.querySelectorAll(".bar")) {
    bar.firstChild.textContent = label;
    bar.lastChild.style.width = `${pixels * perPixel}px`;
  }
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const kept = parentElement.syncedView || (parentElement.syncedView = { view: within(data.view), image: data.image_id });
  if (kept.image !== data.image_id) Object.assign(kept, { view: within(data.view), image: data.image_id });

  const root = parentElement.querySelector(".root");
  root.replaceChildren();
  const move = (view) => {
    kept.view = within(view);
    show(root, data, kept.view);
    clearTimeout(kept.timer); // the link follows when the hand rests
    kept.timer = setTimeout(() => setStateValue("view", { image: data.image_id, at: kept.view }), 500);
  };
  const act = (action) => {
    if (action === "full") {
      if (document.fullscreenElement) document.exitFullscreen();
      else root.requestFullscreen();
      return;
    }
    const [zoom, x, y] = kept.view;
    const far = 0.2 / zoom;
    const next = {
      in: [zoom * STEP, x, y], out: [zoom / STEP, x, y], fit: [1, 0.5, 0.5],
      left: [zoom, x - far, y], right: [zoom, x + far, y], up: [zoom, x, y - far], down: [zoom, x, y + far],
    }[action];
    move(next);
  };
  drawTools(data, root, act);
  data.rows.forEach((row, position) => {
    const above = data.rows[position - 1]; // titles where they differ from the row above
    drawRow(row, data, root, !above || above.panels.length !== row.panels.length);
  });
  show(root, data, kept.view);
  const resized = new ResizeObserver(() => show(root, data, kept.view));
  resized.observe(root);

  const place = (event) => { // where the pointer is: in the stage, and on the image, both 0..1
    const stage = event.target.closest(".stage");
    if (!stage) return null;
    const box = stage.getBoundingClientRect();
    const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    const [zoom, x, y] = kept.view;
    return { box, at, image: [x + (at[0] - 0.5) / zoom, y + (at[1] - 0.5) / zoom] };
  };
  const zoomAt = (event, factor) => {
    const found = place(event);
    if (!found) return;
    const zoom = within([kept.view[0] * factor, 0.5, 0.5])[0];
    move([zoom, found.image[0] - (found.at[0] - 0.5) / zoom, found.image[1] - (found.at[1] - 0.5) / zoom]);
  };
  root.onwheel = (event) => { // without a key the page scrolls, as anywhere
    if (!(event.ctrlKey || event.metaKey) || !event.target.closest(".stage")) return;
    event.preventDefault();
    zoomAt(event, Math.exp(-event.deltaY / 300));
  };
  root.ondblclick = (event) => zoomAt(event, event.shiftKey ? 0.5 : 2);
  let held = null;
  root.onpointerdown = (event) => {
    const found = place(event);
    if (!found || kept.view[0] <= 1) return;
    held = { x: event.clientX, y: event.clientY, view: kept.view, box: found.box };
    event.target.setPointerCapture(event.pointerId);
  };
  root.onpointermove = (event) => {
    if (held) {
      const [zoom, x, y] = held.view;
      move([zoom, x - (event.clientX - held.x) / held.box.width / zoom, y - (event.clientY - held.y) / held.box.height / zoom]);
    }
    const found = place(event);
    for (const cross of root.querySelectorAll(".cross")) {
      cross.hidden = !found;
      if (found) cross.style.translate = `${found.at[0] * found.box.width}px ${found.at[1] * found.box.height}px`;
    }
  };
  root.onpointerup = root.onpointercancel = () => { held = null; };
  root.onpointerleave = () => { for (const cross of root.querySelectorAll(".cross")) cross.hidden = true; };
  root.onkeydown = (event) => {
    const keys = { "+": "in", "=": "in", "-": "out", 0: "fit", f: "full" };
    const arrows = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
    const action = event.shiftKey && arrows[event.key] ? arrows[event.key] : keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // plain arrows belong to previous and next
    act(action);
  };
  return () => { resized.disconnect(); clearTimeout(kept.timer); };
}
