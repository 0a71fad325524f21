(() => {
  // Day or night: as the system has it, or as was chosen in the header, which this browser keeps. It stands in the
  // opening of the page, so that what was chosen is there before anything is seen.
  const KEY = 'binderclip-colours', system = matchMedia('(prefers-color-scheme: dark)'), root = document.documentElement;
  const apply = () => {
    const dark = root.dataset.colours === 'dark' || (root.dataset.colours !== 'light' && system.matches);
    // Gradio sets the class itself, by the system alone.
    if (!document.body || document.body.classList.contains('dark') === dark) return;
    // All at once: a colour that is still on its way cannot be read on one that is there already.
    const still = document.createElement('style');
    still.textContent = '* { transition: none !important; }';
    document.head.append(still);
    document.body.classList.toggle('dark', dark);
    void document.body.offsetHeight;  // computes all colours now
    requestAnimationFrame(() => still.remove());
  };
  const choose = (colours) => { root.dataset.colours = colours; apply(); };
  // A browser that keeps nothing goes by its system.
  try { choose(localStorage.getItem(KEY) || 'system'); } catch { choose('system'); }
  const watch = () => {
    new MutationObserver(apply).observe(document.body, {attributes: true, attributeFilter: ['class']});
    apply();
  };
  if (document.body) watch(); else document.addEventListener('DOMContentLoaded', watch);
  system.addEventListener('change', apply);
  document.addEventListener('change', (event) => {
    if (!event.target.matches('select.colours')) return;
    choose(event.target.value);
    try { localStorage.setItem(KEY, event.target.value); } catch { /* it holds until the page is closed */ }
  });
})();
