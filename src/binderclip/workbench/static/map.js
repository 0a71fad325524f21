({download, csv}) => {
  // A map of pictures on a canvas: thumbnails at their places, to move, enlarge and select. What it shows is in the
  // file that `data-map` names; all of it is in the table of clusters and in the list of what is selected as well.
  const RAMP = [[30, 64, 120], [90, 140, 190], [235, 200, 90], [214, 70, 20]];
  const TAP = 4, MOST_LISTED = 300, SHARP = 90;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const ramp = share => {
    const at = clamp(share, 0, 1) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2), t = at - low;
    return `rgb(${RAMP[low].map((value, n) => Math.round(value + t * (RAMP[low + 1][n] - value))).join(',')})`;
  };

  class PictureMap {
    constructor(root, data) {
      Object.assign(this, {root, data, selected: new Set(), scores: null, lasso: null, pointers: new Map()});
      this.find = name => root.querySelector(`[data-part="${name}"]`);
      this.canvas = this.find('canvas');
      this.context = this.canvas.getContext('2d');
      this.sharp = new Map();
      this.sprite = new Image();
      this.sprite.onload = () => this.draw();
      this.sprite.src = data.sprite;
      this.mode = 'move';
      this.fit();
      new ResizeObserver(() => this.resize()).observe(this.canvas);
      this.listen();
      this.list();
    }

    // A token of the page's theme, by day or by night.
    token(name) { return getComputedStyle(this.canvas).getPropertyValue(`--b-${name}`).trim(); }

    fit() { this.zoom = 1; this.x = 0; this.y = 0; }

    resize() {
      const ratio = window.devicePixelRatio || 1, {width, height} = this.canvas.getBoundingClientRect();
      if (!width) return;
      this.width = width; this.height = height; this.ratio = ratio;
      this.canvas.width = Math.round(width * ratio); this.canvas.height = Math.round(height * ratio);
      this.draw();
    }

    // Side of a thumbnail: as large as leaves room for the others, and growing more slowly than the map.
    get side() {
      const room = Math.sqrt(this.width * this.height / Math.max(1, this.data.points.length));
      return clamp(room * 0.8, 12, 72) * Math.pow(this.zoom, 0.7);
    }

    place(point) {
      const margin = 40, scale = Math.min(this.width, this.height) - 2 * margin;
      return [
        (this.width - scale * this.zoom) / 2 + point[0] * scale * this.zoom + this.x,
        (this.height - scale * this.zoom) / 2 + point[1] * scale * this.zoom + this.y,
      ];
    }

    colour(index) {
      if (this.scores) return ramp(this.scores[index]);
      const cluster = this.data.points[index][2];
      return cluster ? this.data.clusters[cluster - 1].colour : this.unclustered;
    }

    draw() {
      if (this.waiting) return;
      this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); });
    }

    paint() {
      if (!this.width) return;
      const {context, data, side} = this, ready = this.sprite.complete && this.sprite.naturalWidth > 0;
      this.unclustered = this.token('border-strong');
      context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      context.clearRect(0, 0, this.width, this.height);
      const order = this.scores
        ? [...data.points.keys()].sort((a, b) => this.scores[a] - this.scores[b]) : [...data.points.keys()];
      for (const index of order) {
        const [x, y] = this.place(data.points[index]);
        if (x < -side || y < -side || x > this.width + side || y > this.height + side) continue;
        const left = x - side / 2, top = y - side / 2, chosen = this.selected.has(index);
        context.globalAlpha = this.scores ? 0.35 + 0.65 * this.scores[index] : 1;
        if (this.selected.size && !chosen) context.globalAlpha *= 0.45;
        context.fillStyle = this.colour(index);
        const edge = chosen ? 4 : clamp(side / 20, 1.5, 4);
        context.fillRect(left - edge, top - edge, side + 2 * edge, side + 2 * edge);
        const large = side > SHARP ? this.large(index) : null;
        if (large) this.contain(large, left, top, side);
        else if (ready) {
          const tile = data.tile, column = index % data.columns, row = Math.floor(index / data.columns);
          context.drawImage(this.sprite, column * tile, row * tile, tile, tile, left, top, side, side);
        }
      }
      context.globalAlpha = 1;
      if (this.lasso && this.lasso.length > 1) {
        context.beginPath();
        this.lasso.forEach(([x, y], n) => n ? context.lineTo(x, y) : context.moveTo(x, y));
        context.closePath();
        context.strokeStyle = context.fillStyle = this.token('focus');
        context.globalAlpha = 0.15; context.fill();
        context.globalAlpha = 1; context.lineWidth = 2; context.stroke();
      }
    }

    contain(image, left, top, side) {
      const scale = side / Math.max(image.naturalWidth, image.naturalHeight);
      const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
      this.context.fillStyle = this.token('raised');
      this.context.fillRect(left, top, side, side);
      this.context.drawImage(image, left + (side - width) / 2, top + (side - height) / 2, width, height);
    }

    copy(index) { return `${this.data.copies}/${String(index).padStart(5, '0')}.jpg`; }

    // The finer copy of a picture, once it is loaded; asked for when it is first seen large.
    large(index) {
      let image = this.sharp.get(index);
      if (!image) {
        image = new Image();
        image.onload = () => this.draw();
        image.src = this.copy(index);
        this.sharp.set(index, image);
        if (this.sharp.size > 400) this.sharp.delete(this.sharp.keys().next().value);
      }
      return image.complete && image.naturalWidth ? image : null;
    }

    at(x, y) {
      let best = -1, least = this.side * 0.71;
      this.data.points.forEach((point, index) => {
        const [px, py] = this.place(point), distance = Math.hypot(px - x, py - y);
        if (distance < least) { least = distance; best = index; }
      });
      return best;
    }

    words(index) {
      const cluster = this.data.points[index][2];
      return cluster ? `${cluster}: ${this.data.clusters[cluster - 1].words || 'no word fits it more'}` : 'in no cluster';
    }

    zoomTo(factor, x = this.width / 2, y = this.height / 2) {
      const zoom = clamp(this.zoom * factor, 0.5, 40), real = zoom / this.zoom;
      const cx = this.width / 2, cy = this.height / 2;
      this.x = x - cx - (x - cx - this.x) * real;
      this.y = y - cy - (y - cy - this.y) * real;
      this.zoom = zoom;
      this.draw();
    }

    listen() {
      const canvas = this.canvas, spot = event => {
        const box = canvas.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
      canvas.addEventListener('pointerdown', event => {
        canvas.setPointerCapture(event.pointerId);
        canvas.focus({preventScroll: true});
        this.pointers.set(event.pointerId, spot(event));
        this.travel = 0;
        if (this.pointers.size === 1 && (this.mode === 'lasso' || event.shiftKey)) this.lasso = [spot(event)];
        if (this.pointers.size > 1) this.lasso = null;
        this.hint(-1);
      });
      canvas.addEventListener('pointermove', event => {
        const now = spot(event), before = this.pointers.get(event.pointerId);
        if (!before) return this.hint(this.at(...now), now);
        this.travel += Math.hypot(now[0] - before[0], now[1] - before[1]);
        if (this.lasso) this.lasso.push(now);
        else if (this.pointers.size === 2) {
          const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
          const gap = at => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1;
          this.zoomTo(gap(now) / gap(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
        } else { this.x += now[0] - before[0]; this.y += now[1] - before[1]; }
        this.pointers.set(event.pointerId, now);
        this.draw();
      });
      const end = event => {
        if (!this.pointers.delete(event.pointerId)) return;
        if (this.lasso && this.travel > TAP) this.enclose(this.lasso);
        else if (event.type === 'pointerup' && this.travel <= TAP) {
          const index = this.at(...spot(event));
          if (index >= 0) this.enlarge(index);
        }
        this.lasso = null;
        this.draw();
      };
      canvas.addEventListener('pointerup', end);
      canvas.addEventListener('pointercancel', end);
      canvas.addEventListener('pointerleave', () => this.hint(-1));
      // A page that scrolls under the pointer must not become a zoom: only with Ctrl, which a pinch is, or in use.
      canvas.addEventListener('wheel', event => {
        if (!event.ctrlKey && document.activeElement !== canvas) return;
        event.preventDefault();
        this.zoomTo(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), ...spot(event));
      }, {passive: false});
      canvas.addEventListener('keydown', event => {
        const step = {ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60]}[event.key];
        if (step) { this.x += step[0]; this.y += step[1]; this.draw(); }
        else if (event.key === '+' || event.key === '=') this.zoomTo(1.3);
        else if (event.key === '-') this.zoomTo(1 / 1.3);
        else if (event.key === '0') { this.fit(); this.draw(); }
        else if (event.key === 'Escape') this.select([]);
        else return;
        event.preventDefault();
      });
      const act = {
        in: () => this.zoomTo(1.4), out: () => this.zoomTo(1 / 1.4), all: () => { this.fit(); this.draw(); },
        lasso: button => {
          this.mode = this.mode === 'lasso' ? 'move' : 'lasso';
          button.setAttribute('aria-pressed', String(this.mode === 'lasso'));
          canvas.style.cursor = this.mode === 'lasso' ? 'crosshair' : 'grab';
        },
        none: () => this.select([]),
        text: () => download(this.chosen().map(n => `${this.data.points[n][3]}\n`).join(''), 'text/plain', 'selected.txt'),
        csv: () => {
          const rows = this.chosen().map(n => this.data.points[n]).map(([, , cluster, name]) =>
            [name, cluster || '', cluster ? this.data.clusters[cluster - 1].words : '']);
          download(csv([['image', 'cluster', 'words'], ...rows]), 'text/csv', 'selected.csv');
        },
        close: () => this.find('dialog').close(),
        previous: () => this.turn(-1), next: () => this.turn(1),
      };
      this.root.addEventListener('click', event => {
        const button = event.target.closest('button');
        if (!button) return;
        if (button.dataset.cluster !== undefined) {
          const cluster = Number(button.dataset.cluster);
          this.select([...this.data.points.keys()].filter(n => this.data.points[n][2] === cluster));
        } else if (button.dataset.picture !== undefined) this.enlarge(Number(button.dataset.picture));
        else if (act[button.dataset.act]) act[button.dataset.act](button);
      });
      this.find('dialog').addEventListener('keydown', event => {
        if (event.key === 'ArrowLeft') this.turn(-1);
        if (event.key === 'ArrowRight') this.turn(1);
      });
    }

    hint(index, [x, y] = [0, 0]) {
      const tip = this.find('tip');
      tip.hidden = index < 0;
      if (index < 0) return;
      tip.textContent = `${this.data.points[index][3]} (${this.words(index)})`;
      tip.style.left = `${clamp(x, 60, this.width - 60)}px`;
      tip.style.top = `${y + 18}px`;
    }

    enclose(line) {
      const inside = index => {
        const [x, y] = this.place(this.data.points[index]);
        let odd = false;
        for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
          const [ax, ay] = line[i], [bx, by] = line[j];
          if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) odd = !odd;
        }
        return odd;
      };
      this.select([...this.data.points.keys()].filter(inside));
    }

    chosen() { return [...this.selected].sort((a, b) => a - b); }

    select(indices) { this.selected = new Set(indices); this.list(); this.draw(); }

    list() {
      const box = this.find('selection'), rows = this.chosen();
      this.find('count').textContent = rows.length
        ? `${rows.length} selected` : 'Nothing is selected: draw around pictures, or choose a cluster in the table.';
      for (const name of ['text', 'csv', 'none']) this.root.querySelector(`[data-act="${name}"]`).disabled = !rows.length;
      box.replaceChildren(...rows.slice(0, MOST_LISTED).map(index => {
        const item = document.createElement('li'), button = document.createElement('button');
        button.type = 'button'; button.dataset.picture = index; button.textContent = this.data.points[index][3];
        item.append(button);
        return item;
      }));
      if (rows.length > MOST_LISTED) {
        const more = document.createElement('li');
        more.textContent = `and ${rows.length - MOST_LISTED} more, which the files have`;
        box.append(more);
      }
    }

    enlarge(index) {
      const dialog = this.find('dialog'), image = this.find('picture');
      this.open = index;
      image.src = this.copy(index);
      image.alt = this.data.points[index][3];
      this.find('caption').textContent = `${this.data.points[index][3]}, cluster ${this.words(index)}`;
      if (!dialog.open) dialog.showModal();
    }

    // To the next one of what is selected, or of all.
    turn(step) {
      const among = this.selected.has(this.open) ? this.chosen() : [...this.data.points.keys()];
      this.enlarge(among[(among.indexOf(this.open) + step + among.length) % among.length]);
    }

    score(values, text) {
      const low = Math.min(...values), high = Math.max(...values);
      this.scores = values.length === this.data.points.length ? values.map(v => (v - low) / (high - low || 1)) : null;
      this.find('legend').textContent = this.scores ? `Coloured by how well "${text}" fits: blue little, orange most` : '';
      this.draw();
    }
  }

  const look = () => {
    for (const root of document.querySelectorAll('.picture-map:not([data-on])')) {
      root.dataset.on = 'loading';
      fetch(root.dataset.map).then(answer => answer.json()).then(data => {
        root.pictureMap = new PictureMap(root, data);
        root.dataset.on = 'ready';
        root.pictureMap.resize();
      });
    }
    for (const scores of document.querySelectorAll('.map-scores:not([data-on])')) {
      const map = scores.closest('[role="tabpanel"]')?.querySelector('.picture-map[data-on="ready"]')?.pictureMap;
      if (!map) continue;
      scores.dataset.on = 'ready';
      map.score(JSON.parse(scores.dataset.scores), scores.dataset.text);
    }
  };
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true, attributeFilter: ['data-on']});
  look();
}
