(() => {
  // The first pictures are on the page before Gradio is. When its place for them is there they move to it, and when it has
  // them itself, or says why not, they go.
  const opening = document.querySelector('.opening'), pictures = opening.querySelector('.opening-pictures');
  const follow = () => {
    const line = document.querySelector('gradio-app .place .uses');
    const strip = line && line.closest('.block');
    if (strip && opening.isConnected) {
      if (pictures.querySelector('img')) strip.before(pictures);
      opening.remove();
    }
    const settled = document.querySelector('gradio-app .place :is(.block .strip, .left-out)');
    if (!settled && (opening.isConnected || pictures.isConnected)) return;
    pictures.remove();
    watch.disconnect();
  };
  const watch = new MutationObserver(follow);
  watch.observe(document.body, {childList: true, subtree: true});
})();
