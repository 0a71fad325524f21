() => {
  // Every drop zone takes folders, and is told of each file: what is no picture goes as an empty file of its name, so
  // that the server can say so and no film travels for nothing.
  const picture = file => (file.type === '' || file.type.startsWith('image/') ? file : new File([], file.name));
  const seen = name => !name.startsWith('.') && name !== 'Thumbs.db' && name !== 'desktop.ini';
  const below = async entry => {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed)).catch(() => new File([], entry.name));
      return seen(file.name) ? [picture(file)] : [];
    }
    const reader = entry.createReader(), files = [];
    for (;;) {
      // A reader gives a hundred at most, and an empty list at its end.
      const some = await new Promise((done, failed) => reader.readEntries(done, failed)).catch(() => []);
      if (!some.length) return files;
      for (const each of some) if (seen(each.name)) files.push(...await below(each));
    }
  };
  const give = (input, files) => {
    const given = new DataTransfer();
    for (const file of input.multiple ? files : files.slice(0, 1)) given.items.add(file);
    input.files = given.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  };
  const zone = event => event.target instanceof Element && event.target.closest('.drop:not(.document)')?.querySelector('input[type=file]');
  document.addEventListener('drop', async event => {
    const input = zone(event);
    if (!input || !event.dataTransfer) return;
    // Entries are gone as soon as the event is over.
    const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.some(entry => entry.isDirectory)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const files = [];
    for (const entry of entries) files.push(...await below(entry));
    if (files.length) give(input, files);
  }, true);
  const accept = () => {
    for (const input of document.querySelectorAll('.drop input[type=file]:not([accept])')) input.accept = 'image/*,.heic,.heif,.hif';
  };
  new MutationObserver(accept).observe(document.body, {childList: true, subtree: true});
  accept();
}
