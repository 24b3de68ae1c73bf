(() => {
  const data = /*DATA*/null;
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const hex = text => [1, 3, 5].map(i => parseInt(text.slice(i, i + 2), 16));
  for (const root of document.querySelectorAll('[data-scrubber="' + data.id + '"]')) {
    if (root.dataset.ready) continue;
    root.dataset.ready = '1';
    start(root);
  }

  function start(root) {
    const slider = root.querySelector('input'), button = root.querySelector('button');
    const output = root.querySelector('output'), last = data.steps.length - 1;
    const draw = data.panels.map((panel, i) => prepare(root.querySelectorAll('[data-panel]')[i], panel));
    let at = data.start, timer = null;

    const show = step => {
      at = Math.max(0, Math.min(last, step));
      slider.value = at;
      slider.setAttribute('aria-valuetext', data.steps[at]);
      output.textContent = data.steps[at];
      draw.forEach(d => d(at));
    };
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.textContent = '▶';
      button.setAttribute('aria-label', 'play');
    };
    const play = () => {
      if (timer) return stop();
      if (at === last) show(0);
      button.textContent = '⏸';
      button.setAttribute('aria-label', 'pause');
      timer = setInterval(() => {
        if (!root.isConnected) return stop();
        show(at + 1);
        if (at === last) stop();
      }, data.pace);
    };
    root.querySelector('[data-controls]').style.display = 'flex';
    slider.addEventListener('input', () => { stop(); show(+slider.value); });
    button.addEventListener('click', play);
    root.addEventListener('keydown', event => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: last,
        PageUp: at - 5, PageDown: at + 5 }[event.key];
      if (to !== undefined) { stop(); show(to); }
      else if (event.key === ' ' && event.target !== button) play();
      else if (event.key !== ' ') return;
      // A notebook has shortcuts of its own for these keys; a button knows what Space does to it.
      event.stopPropagation();
      if (event.key !== ' ' || event.target !== button) event.preventDefault();
    });
    show(at);
  }

  // Puts a canvas in the place of a panel's still picture; returns what draws a step on it.
  function prepare(box, panel) {
    const still = box.querySelector('img'), read = box.querySelector('[data-read]');
    const canvas = document.createElement('canvas'), context = canvas.getContext('2d');
    const strip = panel.strip && new Image();
    const [width, height] = strip ? panel.picture : [panel.columns, panel.rows];
    canvas.width = width;
    canvas.height = height;
    canvas.style.cssText = still.style.cssText;
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', panel.name);
    still.replaceWith(canvas);
    const cells = panel.cells && bytes(panel.cells), palette = panel.palette && panel.palette.map(hex);
    const count = panel.rows * panel.columns;
    const cell = (step, x, y) => cells[step * count
      + Math.min(panel.rows - 1, Math.floor(y * panel.rows / height)) * panel.columns
      + Math.min(panel.columns - 1, Math.floor(x * panel.columns / width))];
    let step = 0;

    const colour = value => {
      if (panel.names) return value === 255 ? null : palette[value];
      const place = value / 254 * (palette.length - 1), i = Math.min(palette.length - 2, Math.floor(place));
      return palette[i].map((c, k) => c + (palette[i + 1][k] - c) * (place - i));
    };
    const paint = () => {
      if (strip) {
        if (!strip.complete) return;
        context.drawImage(strip, 0, -step * height);
      } else {
        context.fillStyle = '#fff';
        context.fillRect(0, 0, width, height);
      }
      if (!cells) return;
      const image = context.getImageData(0, 0, width, height), pixels = image.data;
      for (let y = 0, k = 0; y < height; y++) {
        for (let x = 0; x < width; x++, k += 4) {
          const value = cell(step, x, y), over = colour(value);
          // Without a label, or not a number.
          const rgb = over && (panel.names || value < 255) ? over : [205, 205, 205];
          const share = !strip ? 1 : panel.names ? (over ? 0.6 : 0) : value === 255 ? 0.6 : 0.75 * value / 254;
          for (let c = 0; c < 3; c++) pixels[k + c] += (rgb[c] - pixels[k + c]) * share;
        }
      }
      context.putImageData(image, 0, 0);
    };
    if (strip) {
      strip.onload = paint;
      strip.src = panel.strip;
    }
    if (cells) {
      canvas.addEventListener('mousemove', event => {
        const value = cell(step, event.offsetX / canvas.clientWidth * width, event.offsetY / canvas.clientHeight * height);
        const text = panel.names ? panel.names[value] || 'none'
          : value === 255 ? 'not a number' : (panel.low + (panel.high - panel.low) * value / 254).toPrecision(3);
        read.textContent = text;
      });
      canvas.addEventListener('mouseleave', () => { read.textContent = ''; });
    }
    return now => { step = now; paint(); };
  }
})();
