() => {
  // Correct the labels of a gallery whose grid names them (`data-labels`, by `labelling.py`): below each picture, for
  // those that are selected, and by digits where one is enlarged. What a person said stands in a field of the page,
  // `.label-marks`, which the runs read.
  const known = new WeakMap();
  const MOST_BUTTONS = 9;
  const MOST_LISTED = 40;
  const TEN = 10;

  const made = (tag, kind, text = '', attributes = {}) => {
    const element = document.createElement(tag);
    element.className = kind;
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const button = (kind, text, attributes = {}) => made('button', kind, text, {type: 'button', ...attributes});
  const gridOf = (element) => element?.closest?.('.picture-grid[data-labels]');
  const figureOf = (element) => element.closest('figure');

  const stateOf = (grid) => known.get(grid);
  const panelOf = (grid) => grid.closest('[role=tabpanel]') ?? document.body;

  // What a person said of the pictures, as the runs take it.
  const tell = (grid) => {
    const field = panelOf(grid).querySelector('.label-marks textarea, .label-marks input');
    const value = JSON.stringify({run: grid.dataset.run, labels: Object.fromEntries(stateOf(grid).marks)});
    if (!field || field.value === value) return;
    const kind = field.matches('textarea') ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(field, value);
    field.dispatchEvent(new Event('input', {bubbles: true}));
  };

  const draw = (figure) => {
    const grid = gridOf(figure), {marks} = stateOf(grid), {row, guess, name} = figure.dataset;
    const label = marks.get(row) ?? guess, marked = marks.has(row);
    const select = figure.querySelector('.label-set'), right = figure.querySelector('.label-right');
    if (![...select.options].some((option) => option.value === label)) select.append(new Option(label, label));
    select.value = label;
    right.setAttribute('aria-pressed', String(marked));
    right.setAttribute('aria-label', marked ? `Take back that ${name} is ${label}` : `${label} is right for ${name}`);
    right.title = marked ? 'Not sure after all' : 'This is right';
    figure.classList.toggle('marked', marked);
    figure.classList.toggle('corrected', marked && label !== guess);
    figure.querySelector('.label-note').textContent =
      marked && label !== guess ? `corrected from ${guess}` : marked ? 'confirmed' : figure.dataset.was ? `was ${figure.dataset.was}` : '';
    if (figure.dataset.label !== label) {
      figure.dataset.label = label;
      figure.dispatchEvent(new Event('relabelled', {bubbles: true}));
    }
  };

  const count = (grid) => {
    const {marks, undo} = stateOf(grid), bar = grid.querySelector('.label-bar');
    const figures = [...grid.querySelectorAll('figure')];
    const corrected = figures.filter((figure) => figure.classList.contains('corrected')).length;
    const text = marks.size ? `${marks.size} marked, ${corrected} of them corrected` : 'none marked yet';
    bar.querySelector('.label-count').value = text;
    bar.querySelector('.label-undo').disabled = !undo.length;
  };

  // Give pictures a label, or none (null): one step to be undone.
  const mark = (grid, changes, {undoing = false} = {}) => {
    const state = stateOf(grid), before = changes.map(([figure]) => [figure, state.marks.get(figure.dataset.row) ?? null]);
    for (const [figure, label] of changes) {
      if (label === null) state.marks.delete(figure.dataset.row);
      else state.marks.set(figure.dataset.row, label);
      draw(figure);
    }
    if (!undoing) state.undo.push(before);
    count(grid);
    tell(grid);
  };
  const undo = (grid) => {
    const last = stateOf(grid).undo.pop();
    if (last) mark(grid, last, {undoing: true});
    return last;
  };

  const chosen = (grid) => [...grid.querySelectorAll('figure')].filter((figure) => figure.querySelector('.pick input')?.checked);

  // All labels: as buttons with their digits where they are few, else as a list.
  const choices = (labels, what) => {
    if (labels.length <= MOST_BUTTONS) {
      return labels.map((label, place) => {
        const each = button('label-choice', '', {'data-label': label, 'aria-label': `${what} ${label}`, title: `Key ${place + 1}`});
        each.append(made('kbd', '', String(place + 1), {'aria-hidden': 'true'}), label);
        return each;
      });
    }
    const list = made('select', 'label-choice', '', {'aria-label': what});
    list.append(new Option(`${what} ...`, ''), ...labels.map((label) => new Option(label, label)));
    return [list];
  };

  const barOf = (grid) => {
    const {labels} = stateOf(grid), bar = made('div', 'label-bar', '', {role: 'group', 'aria-label': 'Correct labels'});
    const first = made('span', 'label-hint', 'A wrong label? Choose the right one below the picture; ✓ says that it is right.');
    bar.append(first);
    if (grid.querySelector('figure[data-first]')) {
      const ten = button('label-ten', 'These ten first', {'aria-pressed': 'false', title: 'Unsure, or unlike the pictures most like them'});
      if (grid.querySelector('.grid-order')) bar.append(ten);
    }
    const several = made('span', 'label-several');
    several.append(made('span', '', 'Selected are'), ...choices(labels, 'Selected are'));
    several.hidden = true;
    bar.append(several, button('label-undo', 'Undo', {title: 'Control and Z'}), made('output', 'label-count', '', {'aria-live': 'polite'}));
    return bar;
  };

  const rowOf = (figure) => {
    const {name, why} = figure.dataset, row = made('div', 'label-row');
    row.append(
      made('select', 'label-set', '', {'aria-label': `Label of ${name}`}),
      button('label-right', '✓', {'aria-pressed': 'false'}),
    );
    figure.querySelector('figcaption').before(row, made('p', 'label-note'));
    if (why) figure.querySelector('figcaption').append(made('span', 'label-why', why));
    if (stateOf(gridOf(figure)).labels.length <= MOST_LISTED) fill(row.firstElementChild);
  };

  const fill = (select) => {
    const grid = gridOf(select);
    if (!grid || select.dataset.full) return;
    // Of very many labels only the list that is opened gets all.
    const value = select.value;
    select.replaceChildren(...stateOf(grid).labels.map((label) => new Option(label, label)));
    if (!stateOf(grid).labels.includes(value)) select.append(new Option(value, value));
    select.value = value;
    select.dataset.full = '1';
  };

  const enhance = () => {
    for (const actions of document.querySelectorAll('.label-actions')) {
      const there = !!panelOf(actions).querySelector('.picture-grid[data-labels]');
      if (actions.classList.contains('on') !== there) actions.classList.toggle('on', there);
    }
    for (const grid of document.querySelectorAll('.picture-grid[data-labels]')) {
      if (known.has(grid)) continue;
      known.set(grid, {labels: JSON.parse(grid.dataset.labels), marks: new Map(), undo: []});
      const {marks} = stateOf(grid), figures = [...grid.querySelectorAll('figure')];
      grid.prepend(barOf(grid));
      // Those of pictures that are not among the shown ones are kept as well.
      for (const [row, label] of Object.entries(JSON.parse(grid.dataset.marks || '{}'))) marks.set(row, label);
      for (const figure of figures) {
        rowOf(figure);
        draw(figure);
      }
      count(grid);
      tell(grid);
    }
  };

  const ten = (grid, pressed) => {
    grid.querySelector('.label-ten').setAttribute('aria-pressed', String(pressed));
    if (pressed) grid.dataset.only = TEN;
    else delete grid.dataset.only;
    const order = grid.querySelector('.grid-order');
    order.value = pressed ? 'first' : 'given';
    order.dispatchEvent(new Event('change', {bubbles: true}));
    grid.querySelector('.grid-words').dispatchEvent(new Event('input', {bubbles: true}));
  };

  document.addEventListener('pointerdown', ({target}) => target.matches?.('.label-set') && fill(target), true);
  document.addEventListener('focusin', ({target}) => target.matches?.('.label-set') && fill(target));
  document.addEventListener('change', ({target}) => {
    const grid = gridOf(target);
    if (!grid) return;
    if (target.matches('.label-set')) mark(grid, [[figureOf(target), target.value]]);
    if (target.matches('select.label-choice') && target.value) {
      mark(grid, chosen(grid).map((figure) => [figure, target.value]));
      target.value = '';
    }
  });
  document.addEventListener('click', ({target}) => {
    const grid = gridOf(target), pressed = target.closest?.('button');
    if (grid && pressed?.matches('.label-right')) {
      const figure = figureOf(pressed), marked = pressed.getAttribute('aria-pressed') === 'true';
      mark(grid, [[figure, marked ? null : figure.dataset.label]]);
    }
    if (grid && pressed?.matches('.label-choice')) mark(grid, chosen(grid).map((figure) => [figure, pressed.dataset.label]));
    if (grid && pressed?.matches('.label-undo')) undo(grid);
    if (grid && pressed?.matches('.label-ten')) ten(grid, pressed.getAttribute('aria-pressed') !== 'true');
    // By whatever it was ticked.
    for (const each of document.querySelectorAll('.label-several')) each.hidden = !chosen(gridOf(each)).length;
  });

  // -- where a picture is enlarged ------------------------------------------------------------------------------------
  let seen = null;
  const dialog = () => document.querySelector('dialog.viewer');
  const show = () => {
    const bar = dialog().querySelector('.viewer-labels'), {marks, labels} = stateOf(gridOf(seen));
    const label = marks.get(seen.dataset.row);
    for (const each of bar.querySelectorAll('button.label-choice')) {
      each.setAttribute('aria-pressed', String(each.dataset.label === label));
      each.classList.toggle('guess', label === undefined && each.dataset.label === seen.dataset.guess);
    }
    const list = bar.querySelector('select');
    if (list) list.value = label ?? '';
    bar.querySelector('.label-note').textContent = label === undefined
      ? `looks like ${seen.dataset.guess}${seen.dataset.why ? `: ${seen.dataset.why}` : ''}`
      : label === seen.dataset.guess ? `${label}, confirmed` : `${label}, corrected from ${seen.dataset.guess}`;
    bar.querySelector('.label-keys').textContent = `${labels.length <= MOST_BUTTONS ? 'A digit says what it is' : 'The list says what it is'}, Enter that it is right; then comes the next one.`;
  };
  const say = (label) => {
    mark(gridOf(seen), [[seen, label]]);
    const next = dialog().querySelector('.viewer-next');
    if (next.disabled) show();
    else next.click();
  };
  document.addEventListener('enlarged', ({target}) => {
    const grid = gridOf(target), part = dialog().querySelector('.viewer-bar');
    part.querySelector('.viewer-labels')?.remove();
    seen = grid ? figureOf(target) : null;
    if (!seen) return;
    const bar = made('div', 'viewer-labels', '', {role: 'group', 'aria-label': 'What it is'});
    bar.append(...choices(stateOf(grid).labels, 'It is'), made('span', 'label-note', '', {'aria-live': 'polite'}), made('span', 'label-keys'));
    for (const each of bar.querySelectorAll('button')) each.addEventListener('click', () => say(each.dataset.label));
    bar.querySelector('select')?.addEventListener('change', (event) => event.target.value && say(event.target.value));
    part.prepend(bar);
    show();
  });
  document.addEventListener('keydown', (event) => {
    const open = dialog()?.open && seen, typing = event.target.matches?.('input:not([type=checkbox]), textarea, select');
    if ((event.ctrlKey || event.metaKey) && event.key === 'z' && !typing) {
      const grid = open ? gridOf(seen) : gridOf(event.target) ?? document.querySelector('[role=tabpanel] .picture-grid[data-labels]:hover');
      if (grid && undo(grid)) {
        event.preventDefault();
        if (open) show();
      }
      return;
    }
    if (!open || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const {labels} = stateOf(gridOf(seen)), label = labels[Number(event.key) - 1];
    if (/^[1-9]$/.test(event.key) && label !== undefined && labels.length <= MOST_BUTTONS) {
      event.preventDefault();
      say(label);
    } else if (event.key === 'Enter' && event.target.matches('.viewer-stage')) {
      event.preventDefault();
      say(seen.dataset.label);
    }
  });

  new MutationObserver(enhance).observe(document.body, {childList: true, subtree: true});
  enhance();
}
