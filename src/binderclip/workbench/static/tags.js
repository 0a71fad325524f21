() => {
  // Tags of pictures, in every gallery and in the dialog that enlarges one. A picture is known by what is in its file
  // (`data-key`), so that its tags are the same in every tab; the server keeps them.
  let known = {}, problem = '';
  const ready = new WeakSet();
  const made = (tag, attributes = {}, ...inside) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...inside);
    return element;
  };
  const keyOf = (place) => place?.querySelector('img[data-key]')?.dataset.key ?? '';
  const all = () => [...new Set(Object.values(known).flat())].sort((a, b) => a.localeCompare(b));

  const ask = async (body) => {
    try {
      const answer = await fetch('/tags', body && {method: 'POST', body: JSON.stringify(body)});
      ({tags: known, problem} = answer.ok ? await answer.json() : {tags: known, problem: await answer.text()});
    } catch {
      problem = 'the workbench cannot be reached: the tags are not saved';
    }
    refresh();
    return !problem;
  };

  const mark = (figure) => {
    const key = keyOf(figure), tags = known[key] ?? [];
    let line = figure.querySelector('.picture-tags');
    if ((figure.dataset.tags ?? '') === tags.join('; ') && !!line === !!tags.length) return;
    if (tags.length) figure.dataset.tags = tags.join('; ');
    else delete figure.dataset.tags;
    if (!line) figure.append(line = made('div', {class: 'picture-tags'}));
    line.replaceChildren(...tags.map((tag) => made('span', {}, tag)));
    if (!tags.length) line.remove();
  };
  const bar = (grid, by) => {
    for (const figure of grid.querySelectorAll('figure')) {
      figure.parentElement.toggleAttribute('data-barred', !!by && !(known[keyOf(figure)] ?? []).includes(by));
    }
    grid.querySelector('.grid-words')?.dispatchEvent(new Event('input', {bubbles: true}));
  };
  const tools = (grid) => {
    const above = grid.querySelectorAll('.grid-tools'), name = grid.querySelector('.gallery').getAttribute('aria-label');
    above[above.length - 1].after(made('div', {class: 'grid-tools grid-tags', role: 'group', 'aria-label': `Tags of ${name}`},
      made('input', {type: 'text', class: 'tag-words', list: 'known-tags', maxlength: 60, placeholder: 'A tag', 'aria-label': 'Tag'}),
      made('button', {type: 'button', 'data-tag': 'add'}, 'Tag selected'), made('button', {type: 'button', 'data-tag': 'remove'}, 'Take tag away'),
      made('select', {class: 'tag-filter', 'aria-label': 'Show tag'}), made('output', {class: 'tag-said', 'aria-live': 'polite'})));
  };
  const offer = (select) => {
    const by = select.value;
    select.replaceChildren(made('option', {value: ''}, 'All tags'), ...all().map((tag) => made('option', {value: tag}, tag)));
    select.value = all().includes(by) ? by : '';
    select.hidden = !all().length;
    return by;
  };

  const refresh = () => {
    let list = document.getElementById('known-tags');
    if (!list) document.body.append(list = made('datalist', {id: 'known-tags'}));
    list.replaceChildren(...all().map((tag) => made('option', {value: tag})));
    for (const grid of document.querySelectorAll('.picture-grid')) dress(grid);
    const dialog = document.querySelector('dialog.viewer[open]');
    if (dialog?.tagged) line(dialog, dialog.tagged);
  };
  const dress = (grid) => {
    if (!grid.querySelector('img[data-key]')) return;
    if (!grid.querySelector('.grid-tags') && grid.querySelector('.grid-tools')) tools(grid);
    for (const figure of grid.querySelectorAll('figure')) mark(figure);
    const select = grid.querySelector('.tag-filter');
    if (select && offer(select)) bar(grid, select.value);
    const said = grid.querySelector('.tag-said');
    if (said) said.value = problem;
    ready.add(grid);
  };

  // Keys and names of pictures, as the server takes them.
  const named = (figures) => Object.fromEntries(figures.map((figure) => [keyOf(figure), figure.dataset.name ?? '']).filter(([key]) => key));
  const tagSelected = async (grid, act) => {
    const words = grid.querySelector('.tag-words'), tag = words.value.trim(), said = grid.querySelector('.tag-said');
    const pictures = named([...grid.querySelectorAll('.pick input:checked')].map((box) => box.closest('figure')));
    const count = Object.keys(pictures).length;
    if (!tag) { said.value = 'type a tag first'; words.focus(); return; }
    if (!count) { said.value = 'select pictures first'; return; }
    if (await ask({pictures, [act]: tag})) said.value = `${count === 1 ? '1 picture' : `${count} pictures`} ${act === 'add' ? 'tagged' : 'no longer tagged'} ${tag}`;
  };

  // The line in the dialog: the tags of this picture, each with a button that takes it away, and one more.
  const line = (dialog, button) => {
    dialog.tagged = button;
    let place = dialog.querySelector('.viewer-tags');
    if (!place) {
      place = made('div', {class: 'viewer-tags', role: 'group', 'aria-label': 'Tags of this picture'}, made('span', {class: 'of-this'}),
        made('input', {type: 'text', list: 'known-tags', maxlength: 60, placeholder: 'Add a tag', 'aria-label': 'Add a tag'}),
        made('output', {'aria-live': 'polite'}));
      dialog.querySelector('.viewer-bar').append(place);
      place.addEventListener('keydown', (event) => {
        // Arrows move in the text, not to the next picture.
        event.stopPropagation();
        const box = event.target.closest('input');
        if (event.key === 'Escape') { event.preventDefault(); dialog.querySelector('.viewer-stage').focus(); }
        if (event.key !== 'Enter' || !box?.value.trim()) return;
        ask({pictures: named([dialog.tagged.closest('figure')]), add: box.value}).then((done) => { if (done) box.value = ''; });
      });
      place.addEventListener('click', ({target}) => {
        const tag = target.closest('button')?.dataset.tag;
        if (tag) ask({pictures: named([dialog.tagged.closest('figure')]), remove: tag});
      });
    }
    const key = keyOf(button);
    place.hidden = !key;
    place.querySelector('.of-this').replaceChildren(...(known[key] ?? []).map((tag) =>
      made('button', {type: 'button', 'data-tag': tag, 'aria-label': `Take away the tag ${tag}`}, `${tag} \u00d7`)));
    place.querySelector('output').value = problem;
  };

  document.addEventListener('click', (event) => {
    const grid = event.target.closest?.('.picture-grid'), act = event.target.closest?.('.grid-tags [data-tag]')?.dataset.tag;
    if (grid && act) tagSelected(grid, act);
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && event.target.matches?.('.tag-words')) tagSelected(event.target.closest('.picture-grid'), 'add');
  });
  document.addEventListener('change', (event) => {
    if (event.target.matches?.('.tag-filter')) bar(event.target.closest('.picture-grid'), event.target.value);
  });
  document.addEventListener('enlarged', ({target}) => line(document.querySelector('dialog.viewer'), target));
  new MutationObserver(() => {
    for (const grid of document.querySelectorAll('.picture-grid')) if (!ready.has(grid)) dress(grid);
  }).observe(document.body, {childList: true, subtree: true});
  ask();
}
