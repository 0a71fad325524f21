// The table of papers: search box and filters above it. Without JavaScript the whole table stands as it is.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const table = [...document.querySelectorAll("article table")].find((each) => {
    const names = [...each.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    return names.includes("family") && names.includes("verdict");
  });
  if (!table) return;
  const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
  const rows = [...table.querySelectorAll("tbody tr")].map((row) => {
    const cells = [...row.cells];
    cells.forEach((cell, index) => (cell.dataset.label = names[index]));
    const shown = cells[names.indexOf("verdict")];
    const verdict = (shown.querySelector("a") || shown).textContent.trim();
    return {
      row,
      text: row.textContent.toLowerCase(),
      families: cells[names.indexOf("family")].textContent.split(",").map((word) => word.trim()),
      verdict: verdict === "planned" ? "" : verdict,
      status: verdict === "planned" ? "planned" : "done",
    };
  });
  table.classList.add("papers");

  const form = document.createElement("form");
  form.className = "papers-filter";
  form.setAttribute("role", "search");
  form.addEventListener("submit", (event) => event.preventDefault());
  const fields = {};
  const field = (name, label, element) => {
    const holder = document.createElement("label");
    holder.append(label, element);
    element.name = name;
    element.addEventListener("input", () => show(true));
    fields[name] = element;
    form.append(holder);
  };
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "zclip, saliency, Chen 2024 ...";
  field("words", "Search", search);
  const choice = (name, label, of) => {
    const select = document.createElement("select");
    const counts = new Map();
    rows.flatMap(of).forEach((value) => value && counts.set(value, (counts.get(value) || 0) + 1));
    select.append(new Option("any", ""));
    [...counts.keys()].sort().forEach((value) => select.append(new Option(`${value} (${counts.get(value)})`, value)));
    field(name, label, select);
  };
  choice("family", "Family", (each) => each.families);
  choice("verdict", "Verdict", (each) => [each.verdict]);
  choice("status", "Status", (each) => [each.status]);
  const clear = document.createElement("button");
  clear.type = "button";
  clear.textContent = "Clear";
  clear.addEventListener("click", () => {
    Object.values(fields).forEach((element) => (element.value = ""));
    show(true);
  });
  const count = document.createElement("output");
  count.setAttribute("aria-live", "polite");
  form.append(clear, count);

  const show = (remember) => {
    const words = fields.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    rows.forEach((each) => {
      const fits =
        words.every((word) => each.text.includes(word)) &&
        (!fields.family.value || each.families.includes(fields.family.value)) &&
        (!fields.verdict.value || each.verdict === fields.verdict.value) &&
        (!fields.status.value || each.status === fields.status.value);
      each.row.hidden = !fits;
      left += fits ? 1 : 0;
    });
    count.textContent = left ? `${left} of ${rows.length} papers` : "No paper fits; change the words or press Clear.";
    if (!remember) return;
    const asked = Object.entries(fields).filter(([, element]) => element.value);
    const query = new URLSearchParams(asked.map(([name, element]) => [name, element.value])).toString();
    // The address can be kept and sent; a page opened from a file may not change it, and works without.
    try {
      history.replaceState(null, "", query ? `#?${query}` : location.pathname + location.search);
    } catch (refused) {
      console.debug(refused.message);
    }
  };
  if (location.hash.startsWith("#?")) {
    new URLSearchParams(location.hash.slice(2)).forEach((value, name) => {
      if (fields[name]) fields[name].value = value;
    });
  }
  (table.closest(".md-typeset__scrollwrap") || table).before(form);
  show(false);
});
