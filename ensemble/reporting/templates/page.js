"use strict";
// Everything on the page is there without this script. It sorts and filters tables, reads curves out, copies, and
// changes colours. Text is set as text, never as HTML.
(() => {
  const make = (name, text, type) => {
    const item = document.createElement(name);
    item.textContent = text;
    if (type) item.className = type;
    if (name === "button") item.type = "button";
    return item;
  };
  const store = (key, value) => {
    try { return value === undefined ? sessionStorage.getItem(key) : sessionStorage.setItem(key, value); } catch { return null; }
  };

  // Light or dark, whatever the system says.
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const tools = make("div", "", "tools");
  const theme = make("button", "");
  const label = () => { theme.textContent = isDark() ? "light colours" : "dark colours"; };
  if (store("theme")) root.dataset.theme = store("theme");
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store("theme", root.dataset.theme);
    label();
  });
  label();
  tools.append(theme);
  document.querySelector("header").append(tools);

  // Tables: sort by a heading; filter the long ones by words.
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === null) return 1;
    if (b === null) return -1;
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  for (const table of document.querySelectorAll("table.grid")) {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      if (!heading.textContent.trim()) return;
      const button = make("button", heading.textContent);
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => {
          const cell = row.cells[column];
          if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
          return cell.textContent.trim() || null;
        };
        const rows = [...body.rows].map((row) => [value(row), row]);
        rows.sort((a, b) => (a[0] === null || b[0] === null || !down ? compare(a[0], b[0]) : compare(b[0], a[0])));
        body.append(...rows.map(([, row]) => row));
      });
    });
    if (body.rows.length > 15) {
      const input = document.createElement("input");
      input.type = "search";
      input.className = "filter";
      input.placeholder = "filter";
      input.setAttribute("aria-label", `filter: ${table.caption.textContent}`);
      input.addEventListener("input", () => {
        const words = input.value.toLowerCase().split(/\s+/);
        for (const row of body.rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      });
      table.parentElement.before(input);
    }
  }

  // A command can be copied.
  for (const figure of document.querySelectorAll("figure.code")) {
    if (!navigator.clipboard) break;
    const button = make("button", "copy", "copy");
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(figure.querySelector("code").textContent); button.textContent = "copied"; } catch { button.textContent = "select and copy"; }
    });
    figure.append(button);
  }

  // Figures: what the pointer or the focus is nearest to, in words below the figure.
  for (const svg of document.querySelectorAll("figure svg.figure")) {
    const points = [...svg.querySelectorAll("[data-label]")];
    if (!points.length) continue;
    const readout = make("p", "", "readout");
    readout.setAttribute("aria-live", "polite");
    svg.after(readout);
    const say = (point) => {
      svg.querySelectorAll(".near").forEach((other) => other.classList.remove("near"));
      point.classList.add("near");
      readout.textContent = point.dataset.label;
    };
    svg.addEventListener("pointermove", (event) => {
      let best = null;
      let least = Infinity;
      for (const point of points) {
        const box = point.getBoundingClientRect();
        const across = (box.left + box.right) / 2 - event.clientX;
        const down = (box.top + box.bottom) / 2 - event.clientY;
        const distance = across * across + down * down;
        if (distance < least) { least = distance; best = point; }
      }
      if (best && least < 3600) say(best);
    });
    svg.addEventListener("focusin", (event) => {
      const point = event.target.closest("[data-label]") || event.target.querySelector("[data-label]");
      if (point) say(point);
    });
    // Arrows walk through the cells of a matrix.
    const links = [...svg.querySelectorAll("a[data-row]")];
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const from = event.target.closest("a[data-row]");
      if (!step || !from) return;
      let row = Number(from.dataset.row);
      let column = Number(from.dataset.column);
      for (let tries = 0; tries < 200; tries += 1) {
        row += step[0];
        column += step[1];
        const next = links.find((link) => Number(link.dataset.row) === row && Number(link.dataset.column) === column);
        if (next) { event.preventDefault(); next.focus(); return; }
      }
    });
  }

  // A panel takes the focus when it opens; Escape closes it and goes back to where it was opened.
  let opener = null;
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (link && link.classList.contains("close")) return;
    if (link) opener = link;
  });
  addEventListener("hashchange", () => {
    const panel = document.querySelector(".panel:target");
    if (panel) panel.focus();
  });
  document.addEventListener("keydown", (event) => {
    const panel = document.querySelector(".panel:target");
    if (event.key !== "Escape" || !panel) return;
    location.hash = panel.querySelector("a.close").getAttribute("href");
    if (opener) opener.focus();
  });

  // A live page comes back to where it was read.
  if (document.querySelector('meta[http-equiv="refresh"]')) {
    const key = `scroll ${location.pathname}`;
    const place = Number(store(key));
    if (place) scrollTo(0, place);
    addEventListener("scroll", () => store(key, String(Math.round(scrollY))), { passive: true });
  }
})();
