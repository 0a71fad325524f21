// Browsers refuse workers to pages opened from a file. There, a hidden frame does what the worker of the search would.
// Its file has the name that the offline plugin looks for, so that nothing is loaded from the network.
"use strict";

if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "search";
      this.frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      document.documentElement.append(this.frame);
      const inner = this.frame.contentDocument;
      inner.open();
      inner.write("<script>self.postMessage = (data) => frameElement.answer(data);</script>");
      const script = inner.createElement("script");
      script.src = new URL(url, location.href);
      script.addEventListener("load", () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
      inner.head.append(script);
      inner.close();
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
