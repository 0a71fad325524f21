({download, csv}) => {
  // Filters, sorts and selects the pictures of galleries, whose HTML `grid.py` makes, and exports the names of those that
  // are selected. Gradio puts in other HTML as it likes: all listeners are on the document, and what is known of a
  // gallery hangs on its element.
  const known = new WeakMap();
  const collator = new Intl.Collator(undefined, {numeric: true, sensitivity: 'base'});

  const stateOf = (grid) => {
    if (known.has(grid)) return known.get(grid);
    const list = grid.querySelector('.gallery');
    const entries = [...list.children].map((item, given) => {
      const figure = item.firstElementChild, {name, score, label = ''} = figure.dataset;
      return {
        item, given, name, label, fits: true, score: score === undefined ? NaN : Number(score), written: score ?? '',
        // Not `innerText`, which lays out what is out of sight.
        text: `${figure.querySelector('figcaption').textContent} ${name} ${label}`.toLowerCase(),
        box: figure.querySelector('.pick input'), first: Number(figure.dataset.first ?? Infinity),
      };
    });
    const state = {list, entries, ordered: entries, drawn: Number(grid.dataset.step), last: null};
    known.set(grid, state);
    return state;
  };

  // Lays out the first so many of those that fit, in their order; the others follow as one scrolls.
  const draw = (grid, most = Number(grid.dataset.step)) => {
    const state = stateOf(grid);
    let drawn = 0;
    for (const each of state.ordered) {
      const seen = each.fits && drawn < most;
      drawn += seen;
      if (each.item.hidden === seen) each.item.hidden = !seen;
    }
    state.drawn = most;
  };
  // Out of the page, changes of thousands cost nothing.
  const anew = (grid, change = () => {}) => {
    const {list} = stateOf(grid);
    list.remove();
    change();
    draw(grid);
    grid.append(list);
  };
  const follow = () => {
    for (const grid of document.querySelectorAll('.picture-grid')) {
      const box = grid.getBoundingClientRect(), state = box.height && stateOf(grid);
      const near = box.height && box.bottom < 3 * innerHeight;
      if (near && state.entries.length > state.drawn) draw(grid, state.drawn + Number(grid.dataset.step));
    }
  };

  const filter = (grid) => {
    const {entries} = stateOf(grid);
    const valueOf = (kind) => grid.querySelector(`.grid-${kind}`)?.value ?? '';
    const words = valueOf('words').toLowerCase().split(/\s+/).filter(Boolean), label = valueOf('label');
    const ends = [valueOf('least'), valueOf('most')];
    const [least, most] = [ends[0] === '' ? -Infinity : Number(ends[0]), ends[1] === '' ? Infinity : Number(ends[1])];
    // A picture without a score is in no range.
    const inRange = (score) => (score >= least && score <= most) || (ends[0] === '' && ends[1] === '');
    let shown = 0;
    // So many of those that are worth a look, where `labels.js` asks for them.
    const few = Number(grid.dataset.only ?? Infinity);
    // Another script bars what it does not want to be seen, such as `tags.js`.
    for (const each of entries) {
      const open = !each.item.hasAttribute('data-barred') && !(each.first > few);
      const fits = open && (!label || each.label === label) && inRange(each.score) && words.every((w) => each.text.includes(w));
      // By the attribute, `viewer.js` knows what to leave out.
      if (each.fits !== fits) each.item.toggleAttribute('data-out', !fits);
      each.fits = fits;
      shown += fits;
    }
    anew(grid);
    grid.querySelector('.grid-count').value = `${shown} of ${entries.length}`;
    count(grid);
  };

  const orders = {
    given: (a, b) => a.given - b.given,
    name: (a, b) => collator.compare(a.name, b.name),
    label: (a, b) => (!a.label - !b.label) || collator.compare(a.label, b.label),
    rising: (a, b) => (isNaN(a.score) - isNaN(b.score)) || a.score - b.score,
    first: (a, b) => (a.first === b.first ? 0 : a.first - b.first),
    falling: (a, b) => (isNaN(a.score) - isNaN(b.score)) || b.score - a.score,
  };
  const sort = (grid, order) => {
    const state = stateOf(grid);
    // NaN - NaN is no order: ties stay as they were given.
    state.ordered = [...state.entries].sort((a, b) => orders[order](a, b) || a.given - b.given);
    anew(grid, () => state.list.replaceChildren(...state.ordered.map((each) => each.item)));
  };

  const picked = (grid) => stateOf(grid).ordered.filter((each) => each.box.checked);
  const count = (grid, said = '') => {
    for (const each of stateOf(grid).entries) each.item.classList.toggle('picked', !!each.box?.checked);
    const chosen = picked(grid), unseen = chosen.filter((each) => !each.fits).length;
    const text = chosen.length ? `${chosen.length} selected${unseen ? `, ${unseen} of them not shown` : ''}` : '';
    grid.querySelector('.grid-picked').value = [text, said].filter(Boolean).join('; ');
    const all = grid.querySelector('[data-do=all]');
    for (const button of grid.querySelectorAll('[data-do]')) {
      // What goes out of sight loses the focus.
      if (!chosen.length && button !== all && button === document.activeElement) all.focus();
      button.hidden = !chosen.length && button !== all;
    }
  };

  const tagsOf = ({item}) => item.firstElementChild.dataset.tags ?? '';
  const actions = {
    all: (grid) => { for (const each of stateOf(grid).entries) if (each.fits) each.box.checked = true; },
    none: (grid) => { for (const each of picked(grid)) each.box.checked = false; },
    txt: (grid) => download(picked(grid).map((each) => `${each.name}\n`).join(''), 'text/plain', 'selection.txt'),
    csv: (grid) => {
      const {entries} = stateOf(grid);
      const columns = [['name', 'name']];
      if (entries.some((each) => each.written)) columns.push([grid.dataset.scoreName, 'written']);
      if (entries.some((each) => each.label)) columns.push(['label', 'label']);
      if (entries.some((each) => tagsOf(each))) columns.push(['tags', 'tags']);
      const rows = picked(grid).map((each) => columns.map(([, key]) => (key === 'tags' ? tagsOf(each) : each[key])));
      download(csv([columns.map(([head]) => head), ...rows]), 'text/csv', 'selection.csv');
    },
    copy: async (grid) => {
      const names = picked(grid).map((each) => each.name);
      try {
        await navigator.clipboard.writeText(names.join('\n'));
        return `${names.length === 1 ? '1 name' : `${names.length} names`} copied`;
      } catch {
        return 'the browser does not let this page copy: take the .txt';
      }
    },
  };

  // Caught on its way down: what scrolls may be the page or something in it.
  document.addEventListener('scroll', follow, {capture: true, passive: true});
  document.addEventListener('input', (event) => {
    const grid = event.target.closest?.('.picture-grid');
    if (grid && event.target.matches('.grid-words, .grid-least, .grid-most')) filter(grid);
  });
  // `labels.js` says so of a picture that is called otherwise now.
  document.addEventListener('relabelled', ({target}) => {
    const each = stateOf(target.closest('.picture-grid')).entries.find(({item}) => item === target.closest('li'));
    each.label = target.dataset.label;
    each.text = `${target.querySelector('figcaption').textContent} ${each.name} ${each.label}`.toLowerCase();
  });
  document.addEventListener('change', (event) => {
    const grid = event.target.closest?.('.picture-grid');
    if (!grid) return;
    if (event.target.matches('.grid-label')) filter(grid);
    if (event.target.matches('.grid-order')) sort(grid, event.target.value);
    if (event.target.matches('.pick input')) count(grid);
  });
  document.addEventListener('click', async (event) => {
    const grid = event.target.closest?.('.picture-grid');
    if (!grid) return;
    const action = event.target.closest('[data-do]')?.dataset.do;
    if (action) count(grid, await actions[action](grid));
    if (!event.target.matches('.pick input')) return;
    const state = stateOf(grid), shown = state.ordered.filter((each) => each.fits);
    const [here, there] = [event.target, state.last].map((box) => shown.findIndex((each) => each.box === box));
    // From the last one that was clicked on to this one, all are as this one is now.
    if (event.shiftKey && there >= 0) {
      const between = shown.slice(Math.min(here, there), Math.max(here, there) + 1);
      for (const each of between) each.box.checked = event.target.checked;
    }
    state.last = event.target;
    count(grid);
  });
}
