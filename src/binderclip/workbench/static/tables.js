() => {
  // Lets every table of `look.table` be sorted by its heads and, if it is long, filtered. Gradio changes tables in place and
  // takes away what stands here and not in the new HTML, `data-ready` too: a table without it is new.
  const LONG = 10;
  const collator = new Intl.Collator(undefined, {numeric: true, sensitivity: 'base'});
  const given = new WeakMap();

  const sortable = (head) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'sort';
    button.textContent = head.textContent;
    head.replaceChildren(button);
  };
  const filterable = (box, rows) => {
    const tools = document.createElement('div'), words = document.createElement('input');
    const count = document.createElement('output');
    tools.className = 'table-tools';
    words.type = 'search';
    words.placeholder = 'Filter rows by text';
    words.setAttribute('aria-label', `Filter rows: ${box.getAttribute('aria-label')}`);
    count.setAttribute('aria-live', 'polite');
    count.value = `${rows.length} of ${rows.length} rows`;
    tools.append(words, count);
    box.prepend(tools);
  };
  const enhance = () => {
    for (const box of document.querySelectorAll('.table-box:not([data-ready])')) {
      const table = box.querySelector('table'), rows = table ? [...table.tBodies[0].rows] : [];
      box.dataset.ready = '';
      given.set(box, rows);
      if (rows.length < 2) continue;
      for (const head of table.tHead.rows[0].cells) if (head.textContent.trim()) sortable(head);
      if (rows.length > LONG) filterable(box, rows);
    }
  };

  // Rising, falling, as given. What is empty or no number stands at the end either way.
  const NEXT = {none: 'ascending', ascending: 'descending', descending: 'none'};
  const sort = (head, box) => {
    const order = NEXT[head.ariaSort ?? 'none'], sign = order === 'descending' ? -1 : 1;
    for (const each of head.parentElement.cells) each.removeAttribute('aria-sort');
    let rows = given.get(box);
    if (order !== 'none') {
      head.setAttribute('aria-sort', order);
      const number = head.classList.contains('number');
      const keyed = rows.map((row) => {
        const text = row.cells[head.cellIndex].textContent.trim();
        return {row, key: number ? Number(text) : text, last: number ? isNaN(text) : !text};
      });
      keyed.sort((a, b) => (a.last - b.last)
        || sign * (number ? (a.key - b.key || 0) : collator.compare(a.key, b.key)));
      rows = keyed.map(({row}) => row);
    }
    rows[0].parentElement.append(...rows);
  };

  document.addEventListener('click', (event) => {
    const head = event.target.closest?.('.table-box button.sort')?.parentElement;
    if (head) sort(head, head.closest('.table-box'));
  });
  document.addEventListener('input', (event) => {
    const tools = event.target.closest?.('.table-tools');
    if (!tools) return;
    const rows = given.get(tools.parentElement), words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(' ').toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    tools.querySelector('output').value = `${shown} of ${rows.length} rows`;
  });
  new MutationObserver(enhance).observe(document.body, {childList: true, subtree: true});
  enhance();
}
