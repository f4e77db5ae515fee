"use strict";
// The state of the page is its address (#data=tin200&x=macs&norm=BCN&model=...): it can be sent on,
// and Back closes the panel.
(() => {
  const { zoo, value, draw, tip } = zooPlot;
  const form = document.querySelector(".controls");
  const plot = document.getElementById("plot");
  const table = document.getElementById("models");
  const dialog = document.getElementById("panel");
  const body = document.getElementById("panel-body");
  const distinct = (field) => ["", ...new Set(zoo.models.map((m) => m[field]).filter(Boolean))];
  const ALLOWED = { // the first is the default
    data: zoo.data.map((d) => d.key),
    x: Object.keys(zoo.axes),
    norm: distinct("norm"),
    family: distinct("family"),
    licence: distinct("licence"),
    weights: ["", "1"],
    sort: ["", "top1", ...Object.keys(zoo.axes)],
    model: ["", ...zoo.models.map((m) => m.name)],
  };
  const DESCENDING = ["top1", "speed"];
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row.dataset.name, row]));
  let home = null; // where the article in the panel came from

  function readState() {
    const given = new URLSearchParams(location.hash.slice(1));
    const entries = Object.entries(ALLOWED).map(([key, values]) => {
      const wanted = given.get(key) ?? "";
      return [key, values.includes(wanted) ? wanted : values[0] ?? ""];
    });
    return Object.fromEntries(entries);
  }

  function go(changes, push = false) {
    const state = Object.entries({ ...readState(), ...changes });
    const changed = state.filter(([key, wanted]) => wanted !== (ALLOWED[key][0] ?? ""));
    const hash = `#${new URLSearchParams(changed)}`;
    history[push ? "pushState" : "replaceState"](null, "", hash);
    show();
  }

  const open = (name) => go({ model: name }, true);

  function matches(model, state) {
    const fields = ["norm", "family", "licence"];
    const fits = fields.every((key) => !state[key] || model[key] === state[key]);
    return fits && (!state.weights || model.tag !== "");
  }

  function ordered(models, state) {
    if (!state.sort) return models;
    const sign = DESCENDING.includes(state.sort) ? -1 : 1;
    return [...models].sort((a, b) => {
      const [x, y] = [value(a, state.sort, state), value(b, state.sort, state)];
      return (x === null) - (y === null) || sign * (x - y);
    });
  }

  function show() {
    const state = readState();
    const chosen = zoo.models.filter((m) => matches(m, state));
    for (const control of form.elements)
      if (control.type === "radio") control.checked = control.value === state[control.name];
      else if (control.type === "checkbox") control.checked = state[control.name] === "1";
      else if (control.name) control.value = state[control.name];
    for (const m of ordered(zoo.models, state)) {
      rows.get(m.name).hidden = !chosen.includes(m);
      table.tBodies[0].append(rows.get(m.name));
    }
    for (const head of table.tHead.querySelectorAll("[data-sort]")) {
      const direction = DESCENDING.includes(state.sort) ? "descending" : "ascending";
      if (head.dataset.sort === state.sort) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    }
    draw(chosen, state, open);
    describe(chosen, state);
    openPanel(state.model);
  }

  function describe(chosen, state) {
    const data = zoo.data.find((d) => d.key === state.data);
    const without = (key) => chosen.filter((m) => value(m, key, state) === null).length;
    const notes = [data ? `${data.title}: ${data.note}.` : "There are no accuracies."];
    if (without("top1")) notes.push("Hollow, in the strip: models without a figure for this data.");
    if (without(state.x)) notes.push(`Not drawn, since not measured: ${without(state.x)}.`);
    const count = `${chosen.length} of ${zoo.models.length} models.`;
    document.getElementById("plot-note").textContent = notes.join(" ");
    document.getElementById("count").textContent = count;
  }

  function openPanel(name) {
    const article = name ? document.getElementById(`model=${name}`) : null;
    if (body.firstElementChild !== article) {
      if (body.firstElementChild) home.append(body.firstElementChild);
      if (article) {
        home = article.parentElement;
        body.append(article);
        document.getElementById("panel-title").textContent = name;
        dialog.scrollTop = 0;
      }
    }
    if (article && !dialog.open) dialog.showModal();
    else if (!article && dialog.open) dialog.close();
  }

  async function copy(button, code) {
    try {
      await navigator.clipboard.writeText(`${code.textContent}\n`);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // where the browser grants no clipboard
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  function newButton(properties) {
    return Object.assign(document.createElement("button"), { type: "button", ...properties });
  }

  for (const pre of document.querySelectorAll("article pre")) {
    const block = Object.assign(document.createElement("div"), { className: "block" });
    const button = newButton({ className: "copy", textContent: "Copy" });
    block.dataset.language = pre.dataset.language ?? "";
    button.addEventListener("click", () => copy(button, pre.firstElementChild));
    pre.replaceWith(block);
    block.append(pre, button);
  }
  for (const head of table.tHead.querySelectorAll("[data-sort]")) {
    const key = head.dataset.sort;
    const button = newButton({ textContent: head.textContent });
    button.addEventListener("click", () => go({ sort: readState().sort === key ? "" : key }));
    head.replaceChildren(button);
  }
  for (const [name, row] of rows)
    row.querySelector("a").addEventListener("click", (event) => {
      event.preventDefault();
      open(name);
    });
  form.addEventListener("change", ({ target }) => {
    const ticked = target.checked ? "1" : "";
    go({ [target.name]: target.type === "checkbox" ? ticked : target.value });
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    history.replaceState(null, "", "#");
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const close = () => go({ model: "" });
  document.getElementById("close").addEventListener("click", close);
  dialog.addEventListener("click", (event) => event.target === dialog && close());
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    close();
  });
  dialog.addEventListener("close", () => !dialog.open && readState().model && close());
  addEventListener("keydown", (event) => event.key === "Escape" && tip(null));
  addEventListener("hashchange", show);
  addEventListener("popstate", show);
  let width = plot.clientWidth;
  addEventListener("resize", () => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    show();
  });
  show();
})();
