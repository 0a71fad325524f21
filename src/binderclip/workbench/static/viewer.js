() => {
  // Shows the pictures of a gallery one by one, as large as the window or at their own size. The one dialog of the page is
  // made when it is first asked for.
  const GALLERIES = '.picture-grid, .duplicate-groups';
  let dialog, stage, image, shown = [], place = 0, actual = false;
  const part = (name) => dialog.querySelector(`.viewer-${name}`);

  const make = () => {
    dialog = document.createElement('dialog');
    dialog.className = 'viewer';
    dialog.setAttribute('aria-labelledby', 'viewer-title');
    // Nothing of a picture stands in here: its names are put in as text.
    dialog.innerHTML = `
      <div class="viewer-stage" tabindex="0" role="group" aria-label="Picture"><img alt=""></div>
      <button type="button" class="viewer-previous" aria-label="Previous picture" title="Previous (left arrow)">‹</button>
      <button type="button" class="viewer-next" aria-label="Next picture" title="Next (right arrow)">›</button>
      <div class="viewer-bar">
        <p aria-live="polite"><strong id="viewer-title" class="viewer-title"></strong> <span class="viewer-more"></span>
          <span class="viewer-place"></span> <span class="viewer-size"></span></p>
        <label class="viewer-pick"><input type="checkbox"> Selected</label>
        <button type="button" class="viewer-zoom" title="Zoom (+ and -)"></button>
        <button type="button" class="viewer-close" title="Close (Escape)">Close</button>
      </div>`;
    document.body.append(dialog);
    [stage, image] = [part('stage'), dialog.querySelector('img')];
    part('previous').addEventListener('click', () => show(place - 1));
    part('next').addEventListener('click', () => show(place + 1));
    part('close').addEventListener('click', () => dialog.close());
    part('zoom').addEventListener('click', () => zoom(!actual));
    part('pick').addEventListener('change', ({target}) => {
      const box = boxOf(shown[place]);
      box.checked = target.checked;
      box.dispatchEvent(new Event('change', {bubbles: true}));
    });
    image.addEventListener('load', fit);
    image.addEventListener('click', (event) => zoom(!actual, event));
    window.addEventListener('resize', fit);
    dialog.addEventListener('keydown', press);
    dialog.addEventListener('close', () => {
      // To the picture that was seen last, unless another result has taken its place.
      const button = shown[place];
      image.removeAttribute('src');
      shown = [];
      button.closest('li').hidden = false;
      button.scrollIntoView({block: 'nearest'});
      button.focus();
    });
    swipes();
  };

  const boxOf = (button) => button.closest('figure').querySelector('.pick input');

  const show = (next) => {
    place = Math.max(0, Math.min(next, shown.length - 1));
    const button = shown[place], small = button.querySelector('img'), figure = button.closest('figure');
    const caption = figure.querySelector('figcaption'), several = figure.querySelectorAll('.enlarge').length > 1;
    image.src = small.dataset.large ?? small.src;
    image.alt = small.alt;
    // Of pictures side by side each has a text of its own.
    part('title').textContent = several ? small.alt : caption.firstChild?.data ?? small.alt;
    part('more').textContent = caption.querySelector('span').textContent;
    part('place').textContent = `${place + 1} of ${shown.length}`;
    part('previous').disabled = place === 0;
    part('next').disabled = place === shown.length - 1;
    // A button that is disabled loses the focus, and the keys with it.
    if (!dialog.contains(document.activeElement) || document.activeElement.disabled) stage.focus();
    const box = boxOf(button);
    part('pick').hidden = !box;
    part('pick').firstElementChild.checked = !!box?.checked;
    zoom(false);
    // Others show in the dialog what they know of this picture, such as `labels.js`.
    button.dispatchEvent(new Event('enlarged', {bubbles: true}));
    for (const near of [shown[place + 1], shown[place - 1]]) {
      const thumbnail = near?.querySelector('img');
      if (thumbnail) new Image().src = thumbnail.dataset.large ?? thumbnail.src;
    }
  };

  const fit = () => {
    if (!dialog.open || !image.complete || !image.naturalWidth) return;
    const {naturalWidth: width, naturalHeight: height} = image, size = shown[place].querySelector('img').dataset.size;
    const scale = actual ? 1 : Math.min(stage.clientWidth / width, stage.clientHeight / height);
    image.style.width = `${width * scale}px`;
    image.style.height = `${height * scale}px`;
    // Pixels that are enlarged much are to be seen as such.
    image.style.imageRendering = scale > 4 ? 'pixelated' : 'auto';
    image.style.cursor = actual ? 'zoom-out' : 'zoom-in';
    const own = `${width} x ${height}`;
    part('size').textContent = `${size} px${own === size ? '' : `, shown at ${own}`}`;
    part('zoom').textContent = actual ? 'Fit' : '1:1';
    part('zoom').setAttribute('aria-label', actual ? 'Fit into the window' : 'Show every pixel, 1:1');
  };
  const zoom = (wanted, event) => {
    const box = image.getBoundingClientRect();
    const at = event ? [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height] : [0.5, 0.5];
    actual = wanted;
    fit();
    // What was clicked on comes to the middle.
    stage.scrollTo(at[0] * image.clientWidth - stage.clientWidth / 2, at[1] * image.clientHeight - stage.clientHeight / 2);
  };

  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = (x, y) => stage.scrollBy(x * 80, y * 80);
    const keys = {
      ArrowLeft: () => (actual ? pan(-1, 0) : show(place - 1)), ArrowRight: () => (actual ? pan(1, 0) : show(place + 1)),
      ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
      PageUp: () => show(place - 1), PageDown: () => show(place + 1), Home: () => show(0), End: () => show(shown.length - 1),
      '+': () => zoom(true), '=': () => zoom(true), '-': () => zoom(false),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  };

  const swipes = () => {
    let from = null;
    stage.addEventListener('touchstart', ({touches}) => { from = touches.length === 1 ? touches[0] : null; }, {passive: true});
    stage.addEventListener('touchend', ({changedTouches: [to]}) => {
      const [x, y] = from ? [to.clientX - from.clientX, to.clientY - from.clientY] : [0, 0];
      if (!actual && Math.abs(x) > 50 && Math.abs(x) > 2 * Math.abs(y)) show(place + (x < 0 ? 1 : -1));
    });
  };

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.(`:is(${GALLERIES}) .enlarge`);
    if (!button) return;
    if (!dialog) make();
    shown = [...button.closest(GALLERIES).querySelectorAll('li:not([data-out]) .enlarge')];
    dialog.showModal();
    show(shown.indexOf(button));
  });
}
