"use strict";
// Accuracy against cost as SVG, drawn at the width that the page has.
const zooPlot = (() => {
  const zoo = JSON.parse(document.getElementById("zoo").textContent);
  const plot = document.getElementById("plot");
  const TRACK = 15; // pixels between the marks of models without a figure
  const number = (value) => Number(value.toPrecision(4)).toString();

  // What a model has on an axis, or on the chosen data; null where there is nothing.
  function value(model, key, state) {
    return (key === "top1" ? model.top1[state.data] : model.x[key]) ?? null;
  }

  function svg(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, text] of Object.entries(attributes)) element.setAttribute(key, text);
    element.append(...children);
    return element;
  }

  function logScale(values, start, end) {
    const logs = values.map(Math.log10);
    const [low, high] = [Math.min(...logs), Math.max(...logs)];
    const margin = Math.max(0.04 * (high - low), 0.06);
    const [from, to] = [low - margin, high + margin];
    const scale = (v) => start + ((Math.log10(v) - from) / (to - from)) * (end - start);
    const every = [];
    for (let decade = Math.floor(from); decade <= to; decade++)
      for (let digit = 1; digit < 10; digit++) every.push([digit, digit * 10 ** decade]);
    const within = every.filter(([, v]) => Math.log10(v) >= from && Math.log10(v) <= to);
    const round = within.filter(([digit]) => [1, 2, 5].includes(digit));
    scale.ticks = (round.length > 2 ? round : within).map(([, v]) => v);
    return scale;
  }

  function linearScale(values, start, end) {
    const [least, most] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 100];
    const margin = Math.max(0.12 * (most - least), 0.5);
    const [from, to] = [Math.max(0, least - margin), Math.min(100, most + margin)];
    const scale = (v) => start + ((v - from) / (to - from)) * (end - start);
    const step = [0.5, 1, 2, 5, 10, 20].find((size) => (to - from) / size <= 6);
    scale.ticks = [];
    if (values.length)
      for (let n = Math.ceil(from / step); n * step <= to; n++) scale.ticks.push(n * step);
    return scale;
  }

  // Marks that would hide each other go to different tracks of the strip.
  function packed(models, position) {
    const ends = [];
    const sorted = [...models].sort((a, b) => position(a) - position(b));
    return sorted.map((model) => {
      const free = ends.findIndex((end) => position(model) - end > 13);
      const track = free < 0 ? ends.length : free;
      ends[track] = position(model);
      return [model, track];
    });
  }

  function layout(drawable, state) {
    const width = plot.clientWidth;
    const bottom = Math.min(400, 150 + width * 0.4);
    const area = { left: 40, right: width - 8, top: 22, bottom };
    const scale = logScale(drawable.map((m) => m.x[state.x]), area.left, area.right);
    const x = Object.assign((m) => scale(m.x[state.x]), { scale });
    const strip = packed(drawable.filter((m) => value(m, "top1", state) === null), x);
    const tracks = Math.max(-1, ...strip.map(([, track]) => track)) + 1;
    const lane = { top: bottom + 14, height: tracks * TRACK + 8 };
    return { width, area, x, strip, lane, foot: tracks ? lane.top + lane.height : bottom };
  }

  function draw(models, state, open) {
    tip(null);
    const drawable = models.filter((m) => value(m, state.x, state) !== null);
    if (!drawable.length) {
      const empty = document.createElement("p");
      empty.textContent = "No model matches these filters.";
      plot.replaceChildren(empty);
      return;
    }
    const { width, area, x, strip, lane, foot } = layout(drawable, state);
    const measured = drawable.filter((m) => value(m, "top1", state) !== null);
    const y = linearScale(measured.map((m) => m.top1[state.data]), area.bottom, area.top);
    const image = svg("svg", {
      class: "plot", width, height: foot + 46, viewBox: `0 0 ${width} ${foot + 46}`,
      role: "group", "aria-label": `Top-1 against ${zoo.axes[state.x].unit}`,
      "data-x": state.x, "data-data": state.data,
    });
    plot.replaceChildren(image);
    frame(image, area, foot, x.scale.ticks.map((v) => [v, x.scale(v)]), y, state);
    if (strip.length) {
      const { left, right } = area;
      const size = { x: left, y: lane.top, width: right - left, height: lane.height, rx: 4 };
      image.append(svg("rect", { class: "lane", ...size }));
    }
    for (const [m, track] of strip)
      image.append(point(m, x(m), lane.top + 11 + TRACK * track, state, open));
    const placed = measured.map((m) => [m, x(m), y(m.top1[state.data])]);
    for (const [m, left, top] of placed) image.append(point(m, left, top, state, open));
    label(image, placed, area);
  }

  function frame(image, area, foot, ticks, y, state) {
    const write = (kind, left, top, text) => {
      const element = svg("text", { class: kind, x: left, y: top });
      element.textContent = text;
      image.append(element);
    };
    const rule = (kind, top) =>
      image.append(svg("line", { class: kind, x1: area.left, x2: area.right, y1: top, y2: top }));
    for (const tick of y.ticks) {
      rule("grid", y(tick));
      write("end", area.left - 8, y(tick) + 4, number(tick));
    }
    rule("axis", area.bottom);
    let last = -99;
    for (const [tick, left] of ticks) {
      if (left - last < 34) continue;
      last = left;
      write("middle", left, foot + 18, number(tick));
    }
    write("end", area.right, foot + 38, zoo.axes[state.x].unit);
    write("", 0, 11, "top-1, %");
  }

  function told(m, state) {
    const top1 = value(m, "top1", state);
    const title = zoo.data.find((d) => d.key === state.data)?.title ?? "any data";
    const accuracy = top1 === null ? `no figure for ${title}` : `${top1.toFixed(2)} % on ${title}`;
    const axes = Object.entries(zoo.axes).filter(([key]) => m.x[key] !== null);
    return [
      m.tag ? accuracy : "no weights yet",
      ...axes.map(([key, axis]) => `${number(m.x[key])} ${axis.short}`),
      `${m.family}, ${m.norm}`,
    ];
  }

  function point(m, left, top, state, open) {
    const without = value(m, "top1", state) === null;
    const attributes = {
      class: `point ${m.norm.toLowerCase()}${without ? " without" : ""}`,
      href: `#model=${m.name}`, transform: `translate(${left.toFixed(1)} ${top.toFixed(1)})`,
      "data-name": m.name, "aria-label": `${m.name}: ${told(m, state).join(", ")}`,
    };
    const hit = svg("circle", { class: "hit", r: without ? 8 : 13 });
    const link = svg("a", attributes, hit, svg("path", { class: "mark", d: zoo.shapes[m.family] }));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      open(m.name);
    });
    for (const name of ["pointerenter", "focus"])
      link.addEventListener(name, () => tip(m, left, top, state));
    for (const name of ["pointerleave", "blur"]) link.addEventListener(name, () => tip(null));
    return link;
  }

  function tip(m, left, top, state) {
    document.querySelector(".tip")?.remove();
    if (!m) return;
    const box = document.createElement("div");
    box.className = "tip";
    const write = (tag, text) =>
      box.append(Object.assign(document.createElement(tag), { textContent: text }));
    write("strong", m.name);
    for (const text of told(m, state)) write("span", text);
    plot.parentElement.append(box);
    const room = plot.clientWidth - box.offsetWidth;
    const above = top - box.offsetHeight - 14;
    box.style.left = `${Math.max(0, Math.min(room, left - box.offsetWidth / 2))}px`;
    box.style.top = `${above > 0 ? above : top + 16}px`;
  }

  // Names beside the points, wherever they fit without covering anything.
  function label(image, placed, area) {
    const around = (l, t) => ({ left: l - 6, right: l + 6, top: t - 6, bottom: t + 6 });
    const taken = placed.map(([, left, top]) => around(left, top));
    const apart = (a, b) =>
      a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
    const inside = (box) =>
      box.left >= area.left && box.right <= area.right && box.top >= 0 && box.bottom <= area.bottom;
    for (const [m, left, top] of placed) {
      const twins = placed.filter(([other]) => other.model === m.model);
      const text = svg("text", { class: "label" });
      text.textContent = twins.length > 1 ? `${m.label} ${m.tag.split("_").slice(0, -1).join("_")}` : m.label;
      image.append(text);
      const length = text.getComputedTextLength();
      const before = left - 11 - length;
      const middle = left - length / 2;
      const spot = [[left + 11, top - 7], [before, top - 7], [middle, top - 24], [middle, top + 10]]
        .map(([l, t]) => ({ left: l, right: l + length, top: t, bottom: t + 14 }))
        .find((box) => inside(box) && taken.every((other) => apart(box, other)));
      if (!spot) {
        text.remove();
        continue;
      }
      taken.push(spot);
      text.setAttribute("x", spot.left);
      text.setAttribute("y", spot.top + 11);
    }
  }

  return { zoo, value, draw, tip };
})();
