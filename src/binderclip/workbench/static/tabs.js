() => {
  // The list of tabs: one stop of the tabulator key, arrow keys inside of it; on a phone behind a button that names the
  // open tab. And what stands where results will be: its button brings the examples.
  const list = document.querySelector('.tasks > .tab-wrapper > [role="tablist"]');
  const button = document.querySelector('.tasks-button'), colours = document.querySelector('select.colours');
  const tabs = () => [...list.querySelectorAll('[role="tab"]')];
  const settle = () => {
    for (const tab of tabs()) {
      const open = tab.getAttribute('aria-selected') === 'true';
      tab.tabIndex = open ? 0 : -1;
      if (open) button.firstElementChild.textContent = tab.textContent.trim();
    }
  };
  const show = (open) => {
    list.closest('.tasks').toggleAttribute('data-open', open);
    // What is behind the list does not move with it.
    document.body.style.overflow = open ? 'hidden' : '';
    button.setAttribute('aria-expanded', String(open));
    if (open) list.querySelector('[aria-selected="true"]').focus();
  };
  const isOpen = () => list.closest('.tasks').hasAttribute('data-open');
  colours.value = document.documentElement.dataset.colours;
  list.setAttribute('aria-orientation', 'vertical');
  list.setAttribute('aria-label', 'Tasks');
  list.addEventListener('keydown', (event) => {
    const all = tabs(), at = all.indexOf(document.activeElement), last = all.length - 1;
    const places = {ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: last};
    if (at < 0 || !(event.key in places)) return;
    event.preventDefault();
    all[(places[event.key] + all.length) % all.length].focus();
  });
  list.addEventListener('click', (event) => {
    if (!isOpen() || !event.target.closest('[role="tab"]')) return;
    show(false);
    button.focus();
    window.scrollTo(0, 0);
  });
  button.addEventListener('click', () => show(!isOpen()));
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !isOpen()) return;
    show(false);
    button.focus();
  });
  // A window that grows has the list beside the page.
  matchMedia('(min-width: 900px)').addEventListener('change', () => show(false));
  new MutationObserver(settle).observe(list, {subtree: true, childList: true, attributes: true, attributeFilter: ['aria-selected']});
  settle();

  document.addEventListener('click', (event) => {
    const pressed = event.target.closest('.hint button');
    if (!pressed) return;
    document.querySelector('button.examples').click();
    // Words to go with the pictures: the example that stands grey in the first field of the tab, "(...)" is none.
    const words = pressed.closest('[role="tabpanel"]').querySelector(':is(textarea, input[type="text"])[placeholder]:not([placeholder=""])');
    if (!words || words.value || words.placeholder.startsWith('(') || words.closest('.clicker')) return;
    words.value = words.placeholder;
    words.dispatchEvent(new Event('input', {bubbles: true}));
  });

  // On a phone what comes of a press stands far below the settings: how it goes is brought to the top of the window.
  document.addEventListener('click', (event) => {
    const pressed = event.target.closest('.controls button.primary');
    if (!pressed || !matchMedia('(max-width: 640px)').matches) return;
    const status = pressed.closest('.controls').previousElementSibling;
    // Until one moves the page oneself; what came last may have made it longer.
    let moved = false;
    const stay = () => { moved = true; };
    for (const kind of ['touchmove', 'wheel']) addEventListener(kind, stay, {once: true, passive: true});
    const bring = () => moved || status.scrollIntoView({block: 'start'});
    const seen = new MutationObserver(() => {
      if (!status.innerText.trim()) return;
      bring();
      if (!status.querySelector('.done, .failed, .stopped')) return;
      seen.disconnect();
      setTimeout(bring, 300);
    });
    seen.observe(status, {childList: true, subtree: true});
  });
}
