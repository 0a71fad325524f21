() => {
  // Gradio leaves some of its own buttons without a name that can be read aloud.
  const name = () => {
    for (const button of document.querySelectorAll('button[aria-label="common.upload"]')) {
      button.setAttribute('aria-label', 'Add files');
      button.title = 'Add files';
    }
    for (const button of document.querySelectorAll('.canvas button:not([aria-label])'))
      button.setAttribute('aria-label', 'The picture; click on the object');
  };
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
  name();
}
