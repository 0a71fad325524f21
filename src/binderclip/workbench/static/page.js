() => {
  // Gradio leaves some of its own buttons without a name that can be read aloud.
  const name = () => {
    for (const button of document.querySelectorAll('button[aria-label="common.upload"]')) {
      button.setAttribute('aria-label', 'Add files');
      button.title = 'Add files';
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
