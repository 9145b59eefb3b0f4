// Zoom and search in the flame graph of a page that stands alone.
"use strict";
(() => {
  const svg = document.querySelector(".graph svg");
  const input = document.querySelector("input");
  const found = document.querySelector("output");
  const letter = 6.7; // the width of one, as where the drawing was made
  const slack = 0.02; // coordinates have two digits

  const boxes = [...svg.querySelectorAll("g")].map((g) => {
    const rect = g.querySelector("rect");
    const at = (name) => Number(rect.getAttribute(name));
    const name = g.querySelector("title").textContent.split("\n")[0];
    g.setAttribute("tabindex", "0");
    return { g, rect, name, text: g.querySelector("text"), x: at("x"), y: at("y"), w: at("width") };
  });
  if (boxes.length === 0) return;
  const root = boxes[0];
  const inside = (box, outer) => box.x >= outer.x - slack && box.x + box.w <= outer.x + outer.w + slack;

  function place(box, x, w) {
    box.rect.setAttribute("x", x.toFixed(2));
    box.rect.setAttribute("width", w.toFixed(2));
    const letters = Math.floor((w - 6) / letter);
    if (!box.text && letters >= 3) {
      box.text = document.createElementNS(svg.namespaceURI, "text");
      box.text.setAttribute("y", String(box.y + 13));
      box.g.append(box.text);
    }
    if (!box.text) return;
    const name = [...box.name];
    box.text.textContent = letters < 3 ? "" : name.length <= letters ? box.name : name.slice(0, letters - 1).join("") + "…";
    box.text.setAttribute("x", (x + 3).toFixed(2));
  }

  function zoom(to) {
    const scale = root.w / to.w;
    for (const box of boxes) {
      const above = box.y < to.y && inside(to, box);
      const below = box.y >= to.y && inside(box, to);
      box.g.classList.toggle("above", above);
      box.g.classList.toggle("away", !above && !below);
      if (above) place(box, root.x, root.w);
      else if (below) place(box, root.x + (box.x - to.x) * scale, box.w * scale);
    }
  }

  function search() {
    const typed = input.value;
    let pattern = null;
    found.textContent = "";
    if (typed !== "") {
      try {
        pattern = new RegExp(typed);
      } catch (e) {
        found.textContent = e.message;
      }
    }
    let sum = 0;
    const outermost = [];
    for (const box of boxes) {
      const hit = pattern !== null && pattern.test(box.name);
      box.g.classList.toggle("hit", hit);
      // Boxes come with callers first: what lies inside of one that counts is counted.
      if (hit && !(outermost.length > 0 && inside(box, outermost[outermost.length - 1]))) {
        outermost.push(box);
        sum += box.w;
      }
    }
    if (pattern !== null) found.textContent = ((100 * sum) / root.w).toFixed(1) + "% of the width";
  }

  for (const box of boxes) {
    box.g.addEventListener("click", () => zoom(box));
    box.g.addEventListener("keydown", (e) => {
      if (e.key === "Enter") zoom(box);
    });
  }
  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape") zoom(root);
  });
  document.querySelector("form").addEventListener("submit", (e) => e.preventDefault());
  document.querySelector("form button").addEventListener("click", () => zoom(root));
  input.addEventListener("input", search);
  for (const b of document.querySelectorAll("td button")) {
    b.addEventListener("click", () => {
      input.value = "^" + b.textContent.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") + "$";
      search();
      svg.scrollIntoView({ block: "nearest" });
    });
  }
})();
