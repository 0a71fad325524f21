() => {
  // Gradio leaves some of its own buttons without a name that can be read aloud.
  const finger = matchMedia('(hover: none)').matches;
  const name = () => {
    for (const button of document.querySelectorAll('button[aria-label="common.upload"]')) {
      button.setAttribute('aria-label', 'Add files');
      button.title = 'Add files';
    }
    // Gradio speaks of one file, and to a finger of dropping it. Of two places for pictures each says whom it is for.
    for (const zone of document.querySelectorAll('.drop .wrap:not([data-named])')) {
      const texts = [...zone.childNodes].filter((each) => each.nodeType === Node.TEXT_NODE && each.data.trim());
      if (texts.length !== 2) continue;
      zone.dataset.named = '';
      const whom = zone.closest('.place') ? ' for all tabs' : zone.closest('.for-this-tab') ? ' for this tab alone' : '';
      const several = zone.closest('.drop').querySelector('input[type=file]')?.multiple;
      const what = zone.closest('.document') ? 'the file' : several ? 'pictures' : 'a picture';
      texts[0].data = (finger ? `Choose ${what}` : `Drop ${what} here`) + whom;
      texts[1].data = finger ? '' : 'click to choose';
      if (finger) zone.querySelector('.or')?.remove();
    }
    // A label on an element without a role is read by nobody.
    for (const empty of document.querySelectorAll('div.empty[aria-label]')) empty.removeAttribute('aria-label');
    for (const frame of document.querySelectorAll('button:not([aria-label]) > .image-frame')) {
      const label = frame.closest('.block')?.querySelector('[data-testid="block-label"]')?.innerText.trim();
      frame.parentElement.setAttribute('aria-label', label || 'Picture');
    }
  };
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
  name();
}
