({download, csv}) => {
  // Groups of copies, side by side: one of each stays, and a click says which. What would go is counted, and saved by the
  // browser as a list; no file is touched.
  const STEP = 60;
  const size = (bytes) => {
    const [value, unit] = bytes >= 1e9 ? [bytes / 1e9, 'GB'] : bytes >= 1e6 ? [bytes / 1e6, 'MB'] : [bytes / 1e3, 'kB'];
    return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
  };
  const made = (tag, attributes = {}, ...inside) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...inside);
    return element;
  };
  const button = (act, text, label) => made('button', {type: 'button', 'data-act': act, ...(label && {'aria-label': label})}, text);

  class DuplicateGroups {
    constructor(root, {groups, columns}) {
      Object.assign(this, {root, groups, columns, drawn: 0});
      this.find = (name) => root.querySelector(`[data-part="${name}"]`);
      let place = 0;
      for (const group of groups) {
        group.relation = new Map(group.pairs.map(([a, b, similarity, why]) => [`${a},${b}`, {similarity, why}]));
        for (const member of group.members) member.place = place++;
        group.state = {kept: 0, whole: '', seen: false};
      }
      this.more();
      root.addEventListener('click', (event) => this.press(event));
    }

    more() {
      const next = this.groups.slice(this.drawn, this.drawn + STEP);
      this.find('groups').append(...next.map((group, n) => this.section(group, this.drawn + n)));
      this.drawn += next.length;
      this.root.querySelector('.more').hidden = this.drawn >= this.groups.length;
      this.count();
    }

    section(group, number) {
      const title = `Group ${number + 1}`, id = `duplicates-${number + 1}`;
      const head = made('div', {class: 'head-line'}, made('h3', {id}, title), made('span', {class: 'about'}),
        button('all', 'Keep all', `${title}: keep all`), button('none', 'Not the same', `${title}: not the same`));
      const list = made('ul', {}, ...group.members.map((member) => this.card(member)));
      group.element = made('section', {class: 'copies', 'aria-labelledby': id, 'data-number': number}, head, list);
      this.update(group);
      return group.element;
    }

    card(member) {
      const image = made('img', {src: member.small, alt: member.name, loading: 'lazy', decoding: 'async',
        'data-size': `${member.width} x ${member.height}`, ...(member.large && {'data-large': member.large}), ...(member.key && {'data-key': member.key})});
      const about = `${member.width} x ${member.height}, ${size(member.bytes)}, ${member.date}, sharpness ${Math.round(member.sharpness)}`;
      return made('li', {},
        made('figure', {'data-name': member.name}, made('button', {type: 'button', class: 'enlarge'}, image),
          made('figcaption', {}, member.name, made('span', {}, about), made('em', {}))),
        button('keep', 'Keep this one', `Keep ${member.name}`));
    }

    relationOf(group, place) {
      const {kept} = group.state;
      return group.relation.get(`${Math.min(kept, place)},${Math.max(kept, place)}`);
    }
    goes(group, place) { return !group.state.whole && place !== group.state.kept; }

    update(group) {
      const {element, members, state} = group;
      if (!element) return;
      element.classList.toggle('dissolved', state.whole === 'none');
      for (const act of ['all', 'none']) {
        element.querySelector(`.head-line [data-act=${act}]`).setAttribute('aria-pressed', String(state.whole === act));
      }
      [...element.querySelectorAll('li')].forEach((item, place) => {
        const relation = this.relationOf(group, place), kept = !this.goes(group, place);
        const why = relation ? `${relation.why}${relation.why === 'near' ? `, ${relation.similarity.toFixed(3)}` : ''}` : '';
        item.classList.toggle('kept', kept);
        const stays = state.whole ? 'stays' : place === 0 ? 'stays, suggested' : 'stays';
        item.querySelector('em').textContent = [kept ? stays : 'would go', place === state.kept ? '' : why].filter(Boolean).join(': ');
        item.querySelector('[data-act=keep]').setAttribute('aria-pressed', String(!state.whole && place === state.kept));
      });
      const gone = members.filter((_, place) => this.goes(group, place)).length;
      element.querySelector('.about').textContent = state.whole === 'none' ? 'not the same: all stay'
        : `${members.length} pictures, ${gone ? `${gone} would go` : 'all stay'}`;
    }

    count() {
      let pictures = 0, bytes = 0;
      this.each((group, member, place) => { if (this.goes(group, place)) { pictures += 1; bytes += member.bytes; } });
      this.find('count').value = pictures
        ? `${pictures === 1 ? '1 picture' : `${pictures} pictures`} would go, ${size(bytes)}` : 'No picture would go';
      this.root.querySelector('[data-act=text]').disabled = !pictures;
    }

    each(visit) {
      this.groups.forEach((group, number) => group.members.forEach((member, place) => visit(group, member, place, number)));
    }

    // Places of what would go, as the server counts them.
    removed() {
      const places = [];
      this.each((group, member, place) => { if (this.goes(group, place)) places.push(member.place); });
      return JSON.stringify(places);
    }

    press(event) {
      const pressed = event.target.closest('[data-act]');
      if (!pressed) return;
      const act = pressed.dataset.act, section = pressed.closest('.copies');
      if (section) {
        const group = this.groups[section.dataset.number], {state} = group;
        if (act === 'keep') Object.assign(state, {whole: '', kept: [...section.querySelectorAll('li')].indexOf(pressed.closest('li'))});
        else state.whole = state.whole === act ? '' : act;
        this.update(group);
        this.count();
      } else if (act === 'more') this.more();
      else if (act === 'reset') {
        for (const group of this.groups) { Object.assign(group.state, {kept: 0, whole: ''}); this.update(group); }
        this.count();
      } else if (act === 'text') {
        const lines = [];  // a name with a line break would be two
        this.each((group, member, place) => { if (this.goes(group, place) && !/[\r\n]/.test(member.name)) lines.push(`${member.name}\n`); });
        download(lines.join(''), 'text/plain', 'remove.txt');
      } else if (act === 'csv') {
        const rows = [];
        this.each((group, member, place, number) => {
          const relation = group.state.whole === 'none' || place === group.state.kept ? null : this.relationOf(group, place);
          rows.push([group.state.whole === 'none' ? '' : number + 1, member.name, this.goes(group, place) ? 'remove' : 'keep',
            relation?.similarity ?? '', relation?.why ?? '', member.width, member.height, member.bytes, member.date, member.sharpness]);
        });
        download(csv([this.columns, ...rows]), 'text/csv', 'duplicates.csv');
      }
    }
  }

  const look = () => {
    for (const root of document.querySelectorAll('.duplicate-groups:not([data-on])')) {
      root.dataset.on = 'loading';
      fetch(root.dataset.groups).then((answer) => answer.json()).then((data) => {
        root.duplicateGroups = new DuplicateGroups(root, data);
        root.dataset.on = 'ready';
      });
    }
  };
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true, attributeFilter: ['data-on']});
  look();
}
