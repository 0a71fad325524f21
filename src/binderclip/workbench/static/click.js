() => {
  // Clicks on pictures: the canvas shows the picture, its masks, points and boxes. What is pressed goes, in its order,
  // through a hidden field to `tabs/click.py`, one message at a time; an answer has the objects and those masks that the
  // page does not have yet.
  const DRAG = 6, STEP = 8, MOST_FILE = 6e6, AGAIN = 6000;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const make = (tag, given = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), given);
    element.append(...children);
    return element;
  };

  class Clicker {
    constructor(root) {
      Object.assign(this, {
        root, queue: [], waiting: 0, sent: 0, view: null, masks: new Map(), selected: 0, mode: 'in', cross: null,
        corner: null, drag: null, zoom: 1, x: 0, y: 0, pointers: new Map(),
      });
      this.find = name => root.querySelector(`[data-part="${name}"]`);
      this.canvas = this.find('canvas');
      this.context = this.canvas.getContext('2d');
      this.picture = new Image();
      this.picture.onload = () => this.draw();
      new ResizeObserver(() => this.draw()).observe(this.find('frame'));
      new IntersectionObserver(seen => seen.some(each => each.isIntersecting) && this.look()).observe(root);
      this.listen();
      this.list();
    }

    // Looked for each time: Gradio may put another in its place.
    get wire() { return this.root.closest('[role="tabpanel"]').querySelector('.click-wire textarea, .click-wire input'); }

    // -- what goes to and fro ------------------------------------------------------------------------------------------

    get seen() { return this.root.offsetParent !== null; }

    // Asks for how things are, where it is not known.
    look() { if (!this.view || this.stale) { this.stale = false; this.send(); } }

    ask(...steps) { this.queue.push(...steps); this.send(); }

    send() {
      if (this.waiting) { this.again = true; return; }
      const steps = this.queue.splice(0), have = {};
      for (const [number, mask] of this.masks) if (mask.final || steps.length) have[number] = mask.key;
      this.waiting = ++this.sent;
      this.root.setAttribute('aria-busy', 'true');
      const message = {
        n: this.sent, do: steps, picture: this.view?.picture ?? -1, selected: this.selected, have, rough: steps.length > 0,
      };
      this.post(message, this.sent);
    }

    // Sent again where no answer comes, as before the page's handlers are there; a step is taken once, by its number.
    post(message, number, wait = AGAIN) {
      if (this.waiting !== number) return;
      const {wire} = this;
      // Gradio tells of a value that is another than before.
      wire.value = JSON.stringify({...message, wait});
      wire.dispatchEvent(new Event('input', {bubbles: true}));
      setTimeout(() => this.post(message, number, wait * 2), wait);
    }

    take(reply) {
      if (reply.stale) {
        this.stale = true;
        if (this.seen) this.look();
        return;
      }
      if (reply.n !== this.waiting) return;
      this.waiting = 0;
      this.root.removeAttribute('aria-busy');
      if (reply.objects) this.show(reply);
      else if (reply.empty && this.view) this.clear();
      const rough = [...this.masks.values()].some(mask => !mask.final);
      if (this.queue.length || this.again || rough) { this.again = false; this.send(); }
    }

    // No picture is chosen any more.
    clear() {
      this.view = null;
      this.selected = 0;
      this.masks.clear();
      this.context.reset();
      this.find('empty').hidden = false;
      this.find('strip').replaceChildren();
      this.list();
    }

    show(view) {
      const other = !this.view || this.view.src !== view.src;
      if (other) {
        this.masks.clear();
        this.picture.src = view.src;
        Object.assign(this, {zoom: 1, x: 0, y: 0, corner: null, cross: null});
      }
      this.view = view;
      this.selected = view.selected;
      const there = new Set(view.objects.map(each => each.number));
      for (const number of [...this.masks.keys()]) if (!there.has(number)) this.masks.delete(number);
      for (const each of view.objects) {
        if (each.png === undefined) continue;
        const mask = {key: each.key, final: each.final, bounds: each.bounds, share: each.share, iou: each.iou};
        this.masks.set(each.number, mask);
        if (!each.png) continue;
        mask.image = new Image();
        mask.image.onload = () => { mask.painted = null; this.draw(); };
        mask.image.src = `data:image/png;base64,${each.png}`;
      }
      this.find('empty').hidden = true;
      this.list();
      this.draw();
    }

    // -- the picture ---------------------------------------------------------------------------------------------------

    // Pixels of the window for one of the picture, and where its corner lies.
    get place() {
      const [width, height] = this.view.size, fit = Math.min(this.width / width, this.height / height);
      const scale = fit * this.zoom;
      return {scale, left: (this.width - width * scale) / 2 + this.x, top: (this.height - height * scale) / 2 + this.y};
    }

    draw() {
      if (this.due) return;
      this.due = requestAnimationFrame(() => { this.due = 0; this.paint(); });
    }

    paint() {
      const frame = this.find('frame'), ratio = window.devicePixelRatio || 1;
      if (!this.view || !frame.clientWidth) return;
      const [width, height] = this.view.size;
      this.width = frame.clientWidth;
      this.height = Math.max(200, Math.min(this.width * height / width, innerHeight * 0.68));
      this.canvas.style.height = `${this.height}px`;
      this.canvas.width = Math.round(this.width * ratio);
      this.canvas.height = Math.round(this.height * ratio);
      const {context} = this, {scale, left, top} = this.place;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      if (this.picture.complete && this.picture.naturalWidth) {
        context.drawImage(this.picture, left, top, width * scale, height * scale);
      }
      for (const each of this.view.objects) {
        const mask = this.masks.get(each.number), chosen = each.number === this.selected;
        if (each.hidden || !mask?.image?.complete) continue;
        const painted = this.painted(mask, each.colour), [x0, y0, x1, y1] = mask.bounds;
        const [x, y, w, h] = [left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale];
        // The edge is seen on light and on dark ground: white around the colour.
        for (const [image, edge] of [[painted.white, chosen ? 2.5 : 1.5], [painted.colour, chosen ? 1.5 : 0]]) {
          for (let turn = 0; edge && turn < 8; turn++) {
            const [dx, dy] = [Math.cos(turn * Math.PI / 4) * edge, Math.sin(turn * Math.PI / 4) * edge];
            painted.edge.push([image, dx, dy]);
          }
        }
        this.outlined(painted, x, y, w, h, ratio, chosen);
      }
      this.marks(scale, left, top);
    }

    // The mask in a colour and in white, of its own pixels.
    painted(mask, colour) {
      if (mask.painted?.of === colour) { mask.painted.edge = []; return mask.painted; }
      const filled = style => {
        const canvas = make('canvas', {width: mask.image.naturalWidth, height: mask.image.naturalHeight});
        const context = canvas.getContext('2d');
        context.drawImage(mask.image, 0, 0);
        context.globalCompositeOperation = 'source-in';
        context.fillStyle = style;
        context.fillRect(0, 0, canvas.width, canvas.height);
        return canvas;
      };
      return mask.painted = {of: colour, colour: filled(colour), white: filled('#fff'), edge: []};
    }

    // Draws a mask with its edge; inside it the picture stays to be seen.
    outlined(painted, x, y, w, h, ratio, chosen) {
      const pad = 4, canvas = make('canvas', {width: Math.ceil((w + 2 * pad) * ratio), height: Math.ceil((h + 2 * pad) * ratio)});
      const context = canvas.getContext('2d');
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      for (const [image, dx, dy] of painted.edge) context.drawImage(image, pad + dx, pad + dy, w, h);
      context.globalCompositeOperation = 'destination-out';
      context.drawImage(painted.white, pad, pad, w, h);
      context.globalCompositeOperation = 'source-over';
      context.globalAlpha = chosen ? 0.5 : 0.4;
      context.drawImage(painted.colour, pad, pad, w, h);
      this.context.drawImage(canvas, x - pad, y - pad, w + 2 * pad, h + 2 * pad);
    }

    marks(scale, left, top) {
      const {context} = this, at = ([x, y]) => [left + x * scale, top + y * scale];
      const frame = (box, colour) => {
        const [x0, y0] = at(box), [x1, y1] = at(box.slice(2));
        for (const [style, line] of [['#fff', 4], [colour, 2]]) {
          context.strokeStyle = style; context.lineWidth = line;
          context.strokeRect(x0, y0, x1 - x0, y1 - y0);
        }
      };
      for (const each of this.view.objects) {
        if (each.number !== this.selected || each.hidden) continue;
        if (each.box) frame(each.box, each.colour);
        for (const [px, py, inside] of each.points) {
          const [x, y] = at([px, py]);
          context.beginPath(); context.arc(x, y, 8, 0, 7);
          context.fillStyle = inside ? '#15803d' : '#b91c1c'; context.fill();
          context.lineWidth = 2; context.strokeStyle = '#fff'; context.stroke();
          context.beginPath(); context.moveTo(x - 4, y); context.lineTo(x + 4, y);
          if (inside) { context.moveTo(x, y - 4); context.lineTo(x, y + 4); }
          context.stroke();
        }
      }
      if (this.drag?.box) frame(this.drag.box, '#1d4ed8');
      const cross = this.cross && document.activeElement === this.canvas ? this.cross : null;
      if (this.corner && cross) frame([...this.corner, ...cross], '#1d4ed8');
      for (const mark of [cross, this.corner]) {
        if (!mark) continue;
        const [x, y] = at(mark);
        for (const [style, line] of [['#fff', 4], ['#1d4ed8', 2]]) {
          context.beginPath(); context.moveTo(x - 12, y); context.lineTo(x + 12, y);
          context.moveTo(x, y - 12); context.lineTo(x, y + 12);
          context.strokeStyle = style; context.lineWidth = line; context.stroke();
        }
      }
    }

    // (x, y) in pixels of the picture of a place in the window.
    spot(event) {
      const box = this.canvas.getBoundingClientRect(), {scale, left, top} = this.place;
      const round = value => Math.round(value * 10) / 10;
      return [round((event.clientX - box.left - left) / scale), round((event.clientY - box.top - top) / scale)];
    }

    inside([x, y]) { return x >= 0 && y >= 0 && x < this.view.size[0] && y < this.view.size[1]; }

    point(at, inside) { if (this.inside(at)) this.ask({kind: 'point', at, inside}); }

    box([x0, y0], [x1, y1]) {
      const [width, height] = this.view.size;
      const box = [
        clamp(Math.min(x0, x1), 0, width), clamp(Math.min(y0, y1), 0, height), clamp(Math.max(x0, x1), 0, width),
        clamp(Math.max(y0, y1), 0, height),
      ];
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.ask({kind: 'box', box});
    }

    zoomTo(factor, event) {
      const box = this.canvas.getBoundingClientRect(), zoom = clamp(this.zoom * factor, 1, 16), real = zoom / this.zoom;
      const [cx, cy] = event ? [event.clientX - box.left - this.width / 2, event.clientY - box.top - this.height / 2] : [0, 0];
      this.x = zoom === 1 ? 0 : cx - (cx - this.x) * real;
      this.y = zoom === 1 ? 0 : cy - (cy - this.y) * real;
      this.zoom = zoom;
      this.draw();
    }

    // -- presses -------------------------------------------------------------------------------------------------------

    listen() {
      const {canvas, root} = this;
      canvas.addEventListener('contextmenu', event => event.preventDefault());
      canvas.addEventListener('pointerdown', event => {
        if (!this.view) return;
        canvas.focus({preventScroll: true});
        canvas.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, event);
        this.cross = null;
        if (this.pointers.size > 1) { this.drag = null; return; }
        this.drag = {from: this.spot(event), event, pan: event.button === 1};
        if (event.button === 1) event.preventDefault();
      });
      canvas.addEventListener('pointermove', event => {
        const before = this.pointers.get(event.pointerId);
        if (!before || !this.view) return;
        this.pointers.set(event.pointerId, event);
        if (this.pointers.size > 1) {
          const other = [...this.pointers.values()].find(each => each.pointerId !== event.pointerId);
          const gap = each => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY) || 1;
          this.zoomTo(gap(event) / gap(before), event);
          return;
        }
        const drag = this.drag;
        if (!drag) return;
        const far = Math.hypot(event.clientX - drag.event.clientX, event.clientY - drag.event.clientY) > DRAG;
        // A finger that moves scrolls, or moves the enlarged picture, unless a box is what it draws.
        if (drag.pan || (event.pointerType === 'touch' && this.mode !== 'box')) {
          drag.moved = drag.moved || far;
          if (this.zoom > 1) { this.x += event.clientX - before.clientX; this.y += event.clientY - before.clientY; }
        } else if (far || drag.box) drag.box = [...drag.from, ...this.spot(event)];
        this.draw();
      });
      const end = event => {
        if (!this.pointers.delete(event.pointerId) || !this.drag) return;
        const drag = this.drag;
        this.drag = null;
        this.draw();
        if (event.type === 'pointercancel' || drag.moved || drag.pan) return;
        if (drag.box) this.box(drag.box.slice(0, 2), drag.box.slice(2));
        else if (this.mode === 'box') this.mark(drag.from);
        else this.point(drag.from, !(this.mode === 'out' || event.shiftKey || event.button === 2));
      };
      canvas.addEventListener('pointerup', end);
      canvas.addEventListener('pointercancel', end);
      canvas.addEventListener('blur', () => this.draw());
      canvas.addEventListener('wheel', event => {
        if (!event.ctrlKey || !this.view) return;
        event.preventDefault();
        this.zoomTo(Math.exp(-event.deltaY * 0.01), event);
      }, {passive: false});
      root.addEventListener('keydown', event => this.key(event));
      root.addEventListener('click', event => {
        const button = event.target.closest('button[data-act]');
        if (button) this.act(button.dataset.act, Number(button.dataset.number));
      });
      root.addEventListener('change', event => {
        const {target} = event;
        if (target.name === 'click-mode') { this.mode = target.value; this.corner = null; this.touch(); this.draw(); }
        if (target.dataset.act === 'done') this.ask({kind: 'done', done: target.checked});
        if (target.dataset.act === 'name') this.ask({kind: 'name', object: Number(target.dataset.number), name: target.value});
        if (target.dataset.part === 'file' && target.files[0]) this.open(target);
      });
    }

    // A finger scrolls the page beside a box, and draws within.
    touch() { this.canvas.style.touchAction = this.mode === 'box' || this.zoom > 1 ? 'none' : 'pan-y'; }

    // A corner of a box; the second one makes it.
    mark(at) {
      if (this.corner) { this.box(this.corner, at); this.corner = null; } else this.corner = at;
      this.draw();
    }

    async open(input) {
      const [file] = input.files;
      input.value = '';
      const text = file.size > MOST_FILE ? '' : await file.text();
      this.ask({kind: 'file', name: file.name, text});
    }

    act(what, number) {
      const go = by => this.view && this.ask({kind: 'go', picture: this.view.picture + by});
      if (what === 'undo' || what === 'redo') {
        if (what === 'undo' && this.corner) { this.corner = null; this.draw(); } else this.ask({kind: what});
      } else if (what === 'new') this.choose(0);
      else if (what === 'choose') this.choose(number);
      else if (what === 'next') go(1);
      else if (what === 'previous') go(-1);
      else if (what === 'go') this.ask({kind: 'go', picture: number});
      else if (what === 'delete') this.ask({kind: 'delete', object: number});
      else if (what === 'hide') {
        this.ask({kind: 'hide', object: number, hidden: !this.view.objects.find(each => each.number === number).hidden});
      } else if (what === 'add') this.add();
    }

    choose(number) {
      this.selected = number;
      this.queue.push({kind: 'select', object: number});
      if (this.waiting) this.again = true;
      this.list();
      this.draw();
    }

    add() {
      const numbers = name => this.find(name).value.trim().split(/[\s,]+/).filter(Boolean).map(Number);
      const [point, box] = [numbers('point'), numbers('box')];
      const right = (values, count) => values.length === count && values.every(Number.isFinite);
      const wrong = (name, values, count) => {
        const bad = values.length > 0 && !right(values, count);
        this.find(name).setCustomValidity(bad ? `Write ${count} numbers with commas between them.` : '');
        this.find(name).reportValidity();
        return bad;
      };
      if (wrong('point', point, 2) || wrong('box', box, 4)) return;
      if (box.length) this.ask({kind: 'box', box});
      if (point.length) this.ask({kind: 'point', at: point, inside: this.mode !== 'out'});
    }

    key(event) {
      const typing = event.target.matches('input[type=text]');
      const control = event.ctrlKey || event.metaKey, letter = event.key.toLowerCase();
      const onCanvas = event.target === this.canvas;
      if (control && letter === 'z' && !typing) this.act(event.shiftKey ? 'redo' : 'undo');
      else if (control && letter === 'y' && !typing) this.act('redo');
      else if (control || event.altKey || !this.view) return;
      else if (typing) {
        if (event.key !== 'Enter') return;
        if (event.target.dataset.act === 'name') { event.target.blur(); this.canvas.focus(); } else this.add();
      } else if (letter === 'n') this.act('next');
      else if (letter === 'p') this.act('previous');
      else if (onCanvas && event.key.startsWith('Arrow')) this.move(event);
      else if (event.key === 'ArrowRight' && !event.target.matches('input')) this.act('next');
      else if (event.key === 'ArrowLeft' && !event.target.matches('input')) this.act('previous');
      else if (!onCanvas && event.key !== 'Delete') return;
      else if (event.key === 'Enter') this.act('new');
      else if (event.key === ' ' && this.cross) {
        if (this.mode === 'box') this.mark(this.cross); else this.point(this.cross, this.mode !== 'out' && !event.shiftKey);
      } else if (letter === 'b' && this.cross) this.mark(this.cross);
      else if (event.key === 'Delete' && this.selected) this.act('delete', this.selected);
      else if (event.key === '+' || event.key === '=') this.zoomTo(1.5);
      else if (event.key === '-') this.zoomTo(1 / 1.5);
      else if (event.key === '0') { Object.assign(this, {zoom: 1, x: 0, y: 0}); this.draw(); }
      else if (event.key === 'Escape') { this.corner = null; this.draw(); }
      else return;
      event.preventDefault();
    }

    // The cross of the keyboard: Shift takes small steps.
    move(event) {
      const [width, height] = this.view.size, step = (event.shiftKey ? 1 : STEP) / this.place.scale;
      const [dx, dy] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      const [x, y] = this.cross ?? [width / 2, height / 2], round = value => Math.round(value * 10) / 10;
      this.cross = [round(clamp(x + dx * step, 0, width - 0.1)), round(clamp(y + dy * step, 0, height - 0.1))];
      this.draw();
    }

    // -- the lists -----------------------------------------------------------------------------------------------------

    list() {
      const {view} = this, objects = view?.objects ?? [];
      const act = (what, text, label, number) => {
        const button = make('button', {type: 'button', textContent: text});
        Object.assign(button.dataset, {act: what, number});
        button.setAttribute('aria-label', label);
        return button;
      };
      const focus = document.activeElement?.dataset;
      const kept = focus?.number && this.root.contains(document.activeElement) ? `[data-act="${focus.act}"][data-number="${focus.number}"]` : null;
      const typed = kept && document.activeElement.matches('input[type=text]') ? document.activeElement.value : null;
      this.find('objects').replaceChildren(...objects.map(each => {
        const mask = this.masks.get(each.number), called = each.name || `object ${each.number}`;
        const name = make('input', {type: 'text', value: each.name, maxLength: 100, placeholder: `object ${each.number}`});
        Object.assign(name.dataset, {act: 'name', number: each.number});
        name.setAttribute('aria-label', `Name of object ${each.number}`);
        name.setAttribute('list', 'click-names');
        const choose = act('choose', '', `Choose ${called}`, each.number);
        choose.setAttribute('aria-pressed', String(each.number === this.selected));
        choose.style.background = each.colour;
        const hide = act('hide', each.hidden ? 'Show' : 'Hide', `${each.hidden ? 'Show' : 'Hide'} ${called}`, each.number);
        const share = mask ? `${(mask.share * 100).toFixed(1)} %${mask.final ? '' : ' ...'}` : '';
        const row = make('li', {}, choose, name, make('span', {textContent: share}), hide, act('delete', 'Delete', `Delete ${called}`, each.number));
        row.classList.toggle('chosen', each.number === this.selected);
        return row;
      }));
      if (kept) {
        const again = this.root.querySelector(kept);
        again?.focus({preventScroll: true});
        if (again && typed !== null) again.value = typed;
      }
      const names = new Set([...this.find('names').options].map(each => each.value));
      for (const each of objects) if (each.name) names.add(each.name);
      this.find('names').replaceChildren(...[...names].map(value => make('option', {value})));
      this.find('hint').textContent = !view ? '' : this.selected ? 'Enter, or New object, begins the next one.'
        : objects.length ? 'The next click begins a new object.' : 'No object yet: click on one, or drag a box around it.';
      if (!view) return;
      this.find('done').checked = view.done;
      this.find('strip').replaceChildren(...view.strip.map(each => {
        const button = act('go', '', `Picture ${each.picture + 1}, ${each.name}, ${each.objects} objects${each.done ? ', done' : ''}`, each.picture);
        button.append(make('img', {src: each.src || 'data:,', alt: ''}));
        if (each.objects || each.done) button.append(make('span', {textContent: `${each.objects}${each.done ? ' \u2713' : ''}`}));
        if (each.picture === view.picture) button.setAttribute('aria-current', 'true');
        return make('li', {}, button);
      }));
    }
  }

  const look = () => {
    for (const root of document.querySelectorAll('.clicker:not([data-on])')) {
      if (!root.closest('[role="tabpanel"]')?.querySelector('.click-wire textarea, .click-wire input')) continue;
      root.dataset.on = 'ready';
      root.clicker = new Clicker(root);
    }
    for (const reply of document.querySelectorAll('.click-reply')) {
      const clicker = reply.closest('[role="tabpanel"]')?.querySelector('.clicker[data-on]')?.clicker;
      const text = reply.dataset.reply;
      if (!clicker || clicker.taken === text) continue;
      clicker.taken = text;
      clicker.take(JSON.parse(text));
    }
  };
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true, attributeFilter: ['data-reply']});
  look();
}
