// The tables of papers: search box and filters above them. Without JavaScript all tables stand as they are.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const heads = (table) => [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
  const titleOf = (table) => {
    let before = table.closest(".md-typeset__scrollwrap") || table;
    while (before && before.tagName !== "H2") before = before.previousElementSibling;
    return before;
  };
  const tables = [...document.querySelectorAll("article table")].filter((table) => {
    const names = heads(table);
    return names.includes("paper") && (names.includes("claim here") || names.includes("names"));
  });
  if (!tables.some((table) => heads(table).includes("claim here"))) return;
  const rows = tables.flatMap((table) => {
    const names = heads(table);
    const title = titleOf(table);
    table.classList.add("papers");
    return [...table.querySelectorAll("tbody tr")].map((row) => {
      const cells = [...row.cells];
      cells.forEach((cell, index) => (cell.dataset.label = names[index]));
      const text = (name) => (names.includes(name) ? cells[names.indexOf(name)] : null);
      const claim = text("claim here");
      const link = claim && claim.querySelector("a");
      return {
        row,
        table,
        title,
        text: row.textContent.toLowerCase(),
        job: title ? title.firstChild.textContent.trim() : "",
        // What is excluded differs from paper to paper.
        verdict: link ? link.textContent.trim().replace(/^no .* of .*/, "no effect of X or more") : "",
        rival: text("cheap rival") ? text("cheap rival").textContent.split(":")[0].trim() : "",
      };
    });
  });

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
  const choice = (name, label) => {
    const select = document.createElement("select");
    const counts = new Map();
    rows.forEach((each) => each[name] && counts.set(each[name], (counts.get(each[name]) || 0) + 1));
    select.append(new Option("any", ""));
    [...counts].forEach(([value, count]) => select.append(new Option(`${value} (${count})`, value)));
    field(name, label, select);
  };
  choice("job", "Job");
  choice("verdict", "Claim");
  choice("rival", "Cheap rival");
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
    const wanted = ["job", "verdict", "rival"].filter((name) => fields[name].value);
    let left = 0;
    rows.forEach((each) => {
      const fits =
        words.every((word) => each.text.includes(word)) &&
        wanted.every((name) => each[name] === fields[name].value);
      each.row.hidden = !fits;
      left += fits ? 1 : 0;
    });
    tables.forEach((table) => {
      const own = rows.filter((each) => each.table === table);
      const none = own.every((each) => each.row.hidden);
      table.hidden = none;
      if (own[0] && own[0].title) own[0].title.hidden = none;
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
  (titleOf(tables[0]) || tables[0]).before(form);
  show(false);
});
