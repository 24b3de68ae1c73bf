'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
// What comes behind this script: the list does not wait for it.
let records = null, sheets = [];
const find = id => document.getElementById(id);
const make = (tag, text, css) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (css) node.className = css;
  return node;
};
const T = data.t.length, [H, W] = data.grid, MAP = Math.ceil(H * W / 2), NONE = 65535, ROW = 56, CHIPS = 8;

// One fixed-length record a latent, decoded when it is looked at.
const known = new Map();
function record(latent) {
  if (known.has(latent)) return known.get(latent);
  const text = atob(records.substr(latent * data.chars, data.chars));
  let at = 0;
  const u8 = () => text.charCodeAt(at++);
  const u16 = () => u8() + 256 * u8();
  const list = (n, each) => Array.from({ length: n }, each);
  const map = () => {
    const out = new Uint8Array(H * W);
    for (let i = 0; i < MAP; i++) {
      const b = u8();
      out[2 * i] = b & 15;
      if (2 * i + 1 < H * W) out[2 * i + 1] = b >> 4;
    }
    return out;
  };
  const made = {
    pictures: list(data.examples, u16),
    bins: list(data.bins, u8),
    means: list(T, u8),
    near: list(data.neighbours, () => ({ latent: u16(), cosine: u8() / 127.5 - 1 })).filter(n => n.latent !== NONE),
    words: list(data.shownWords, () => ({ word: u16(), means: list(T, u8) })).filter(w => w.word !== NONE),
    maps: list(data.examples, map),
    time: list(T, map),
  };
  if (known.size > 400) known.clear();
  known.set(latent, made);
  return made;
}

const VIRIDIS = ['#440154', '#482878', '#3e4989', '#31688e', '#26828e', '#1f9e89', '#35b779', '#6ece58', '#b5de2b', '#fde725']
  .map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
const viridis = share => {
  const x = Math.max(0, Math.min(1, share)) * (VIRIDIS.length - 1), i = Math.min(VIRIDIS.length - 2, Math.floor(x));
  return VIRIDIS[i].map((c, k) => Math.round(c + (VIRIDIS[i + 1][k] - c) * (x - i)));
};

// Sheets of small pictures; what waits for one is drawn when it is there.
const load = uri => {
  const image = new Image();
  image.src = uri;
  return image;
};
let heat = true;
function draw(canvas, picture, map) {
  const bare = picture === NONE, side = data.side, context = canvas.getContext('2d');
  canvas.width = canvas.height = side;
  const paint = () => {
    if (picture === NONE) {
      context.fillStyle = '#440154';
      context.fillRect(0, 0, side, side);
    } else {
      const place = picture % data.perSheet;
      const x = place % data.columns * side, y = Math.floor(place / data.columns) * side;
      context.drawImage(sheets[Math.floor(picture / data.perSheet)], x, y, side, side, 0, 0, side, side);
    }
    if (!map || (!heat && !bare)) return;
    for (let i = 0; i < H * W; i++) {
      if (!map[i]) continue;
      const share = map[i] / 15, [r, g, b] = viridis(share);
      context.fillStyle = `rgba(${r},${g},${b},${0.25 + 0.55 * share})`;
      const x = Math.round(i % W * side / W), y = Math.round(Math.floor(i / W) * side / H);
      context.fillRect(x, y, Math.round((i % W + 1) * side / W) - x, Math.round((Math.floor(i / W) + 1) * side / H) - y);
    }
  };
  const sheet = picture === NONE ? null : sheets[Math.floor(picture / data.perSheet)];
  if (!sheet || (sheet.complete && sheet.naturalWidth)) paint();
  else sheet.addEventListener('load', paint, { once: true });
}

let query = [];
const labels = latent => data.labels[latent].map(([label, hits, iou, precision]) =>
  ({ word: data.names[label][0], kind: data.names[label][1], hits, iou: iou / 1000, precision: precision / 1000 }));
// The words that are searched for come first.
const named = latent => {
  const all = labels(latent), sought = query.length && !query.number && matching(latent) || [];
  return [...new Set([...sought, ...all].map(l => l.word))].slice(0, 4).join(', ');
};
const digits = x => x === 0 ? '0' : Math.abs(x) < 0.001 || Math.abs(x) >= 1e5 ? x.toExponential(1) : +x.toPrecision(3) + '';
const percent = x => (100 * x < 0.1 && x > 0 ? '<0.1' : (100 * x).toFixed(1)) + ' %';
const emergence = latent => data.emergence[latent] < 0 ? null : data.t[data.emergence[latent]];

// The list: only the rows in view are in the document.
let shown = [], selected = -1;
const matching = latent => {
  const all = labels(latent);
  const hits = query.map(q => all.filter(l => l.word.startsWith(q) || l.word.split(' ').some(w => w.startsWith(q))));
  return hits.every(h => h.length) ? hits.flat() : null;
};
const best = latent => {
  const all = query.length && !query.number ? matching(latent) || [] : labels(latent);
  return all.reduce((a, l) => Math.max(a, l.iou), 0);
};
const hits = latent => labels(latent).reduce((a, l) => Math.max(a, l.hits), 0);
const ORDERS = {
  iou: ['best IoU', l => -best(l)],
  hits: ['most hits', l => -hits(l)],
  dense: ['most dense', l => -data.density[l]],
  sparse: ['least dense', l => data.density[l] || 2],
  early: ['emerges first', l => -(emergence(l) ?? -1)],
  late: ['emerges last', l => emergence(l) ?? 2],
  strong: ['greatest activation', l => -data.max[l]],
  number: ['number', l => l],
};
for (const [key, [name]] of Object.entries(ORDERS)) {
  if (T < 2 && (key === 'early' || key === 'late')) continue;
  find('sort').append(new Option(name, key));
}
for (const kind of ['any label', 'labelled', ...new Set(data.names.map(n => n[1]))]) {
  find('kind').append(new Option(kind === 'any label' ? 'all latents' : kind, kind));
}

function filter(keep) {
  const text = find('search').value.trim().toLowerCase(), kind = find('kind').value;
  query = text.split(/\s+/).filter(Boolean);
  query.number = /^#?\d+$/.test(text);
  const fits = latent => {
    if (query.number) return String(latent) === text.replace('#', '');
    if (kind === 'labelled' && !data.labels[latent].length) return false;
    if (kind !== 'any label' && kind !== 'labelled' && !labels(latent).some(l => l.kind === kind)) return false;
    return !query.length || matching(latent) !== null;
  };
  const order = ORDERS[find('sort').value][1];
  shown = data.labels.map((_, latent) => latent).filter(fits)
    .map(latent => [order(latent), latent]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(p => p[1]);
  find('count').textContent = `${shown.length} of ${data.labels.length} latents`;
  find('rows').style.height = shown.length * ROW + 'px';
  if (!keep) find('list').scrollTop = 0;
  if (!shown.length) find('count').textContent += near(text);
  rows();
}

// The nearest labels to a word that no list holds.
function near(text) {
  if (!text || query.number) return '';
  const distance = (a, b) => {
    let row = Array.from({ length: b.length + 1 }, (_, i) => i);
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++) next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
      row = next;
    }
    return row[b.length];
  };
  const words = [...new Set(data.names.map(n => n[0]))].sort((a, b) => distance(text, a) - distance(text, b));
  return words.length ? `; nearest: ${words.slice(0, 3).join(', ')}` : '';
}

function rows() {
  const list = find('list'), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const end = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW) + 8);
  const parts = [];
  for (let i = first; i < end; i++) {
    const latent = shown[i], row = make('div', undefined, 'row');
    row.style.top = i * ROW + 'px';
    row.id = 'row-' + latent;
    row.setAttribute('role', 'option');
    row.setAttribute('aria-selected', latent === selected);
    row.setAttribute('aria-setsize', shown.length);
    row.setAttribute('aria-posinset', i + 1);
    const picture = make('canvas'), name = make('div', undefined, 'name'), facts = make('div', undefined, 'facts');
    const live = data.density[latent] > 0;
    if (live && records) { const r = record(latent); draw(picture, r.pictures[0], r.maps[0]); }
    name.append(make('div', named(latent) || (live ? 'no label' : 'silent'), named(latent) ? '' : 'grey'),
      make('div', '#' + latent, 'grey small'));
    if (data.labels[latent].length) facts.append(make('div', 'IoU ' + best(latent).toFixed(2)));
    facts.append(make('div', percent(data.density[latent]), 'grey'));
    row.append(picture, name, facts);
    row.addEventListener('click', () => select(latent));
    parts.push(row);
  }
  find('rows').replaceChildren(...parts);
  if (selected >= 0) find('list').setAttribute('aria-activedescendant', 'row-' + selected);
}

// A concept's page.
function bars(values, names, title) {
  const w = 250, h = 78, n = values.length, most = Math.max(...values, 1), step = w / n;
  const svg = values.map((v, i) => `<rect x="${i * step + 1}" y="${h - h * v / most}" width="${step - 2}" height="${h * v / most}" fill="#0072b2"/>`).join('');
  const box = make('div');
  box.append(make('h3', title));
  const chart = make('div');
  chart.innerHTML = `<svg width="${w}" height="${h + 1}" role="img"><line x2="${w}" y1="${h + .5}" y2="${h + .5}" stroke="#222"/>${svg}</svg>`;
  chart.firstChild.setAttribute('aria-label', title);
  const ends = make('div', undefined, 'small grey');
  ends.style.cssText = `display:flex;justify-content:space-between;width:${w}px`;
  ends.append(make('span', names[0]), make('span', names[1]));
  box.append(chart, ends);
  return box;
}

function page(latent) {
  const main = find('page'), live = data.density[latent] > 0, all = labels(latent), parts = [];
  parts.push(make('h2', named(latent) || (live ? 'No label' : 'Silent')));
  const time = emergence(latent);
  parts.push(make('div', [`latent ${latent}`, `fires on ${percent(data.density[latent])} of the tokens and ${data.items[latent]} of ${data.pictures} pictures`,
    live ? `greatest activation ${digits(data.max[latent])}` : '', T > 1 && time !== null ? `emerges at t = ${time.toFixed(2)}` : ''].filter(Boolean).join(' · '), 'grey'));
  if (all.length) {
    const chips = make('div', undefined, 'chips');
    for (const l of all.slice(0, CHIPS)) {
      const chip = make('span', undefined, 'chip');
      chip.append(make('b', l.word), ` ${l.kind} · IoU ${l.iou.toFixed(2)} · ${l.hits} hit${l.hits === 1 ? '' : 's'} · precision ${l.precision.toFixed(2)}`);
      chips.append(chip);
    }
    const rest = all.slice(CHIPS).map(l => l.word).join(', ');
    if (rest) chips.append(make('span', 'also ' + rest, 'grey small'));
    parts.push(chips);
  }
  if (live && records) {
    const r = record(latent), tiles = make('div', undefined, 'tiles');
    parts.push(make('h3', 'Pictures that excite it most'), tiles);
    r.pictures.forEach((picture, i) => {
      if (picture === NONE) return;
      const tile = make('div', undefined, 'tile'), canvas = make('canvas');
      draw(canvas, picture, r.maps[i]);
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', data.prompts[picture] || 'picture');
      tile.title = data.prompts[picture];
      tile.append(canvas, make('p', data.prompts[picture]));
      tiles.append(tile);
    });
    const scale = make('div', undefined, 'small grey');
    scale.style.cssText = 'display:flex;gap:8px;align-items:center;margin-top:6px';
    scale.append('0', make('div', undefined, 'bar'), digits(data.max[latent]));
    parts.push(scale);
    if (T > 1) {
      const strip = make('div', undefined, 'tiles');
      parts.push(make('h3', 'Its map on the first picture, from noise to the end'), strip);
      r.time.forEach((map, i) => {
        const tile = make('div', undefined, 'tile time'), canvas = make('canvas');
        draw(canvas, NONE, map);
        tile.append(canvas, make('p', `t = ${data.t[i].toFixed(2)}`));
        strip.append(tile);
      });
    }
    const charts = make('div', undefined, 'charts');
    charts.append(bars(r.bins, ['0', digits(data.max[latent])], 'Tokens by activation (logarithmic)'));
    if (T > 1) charts.append(bars(r.means, ['t = 1, noise', 't = 0'], 'Mean activation over time'));
    if (r.words.length) charts.append(wordTable(r.words));
    parts.push(charts);
  }
  const near = records ? record(latent).near : [];
  if (near.length) {
    const links = make('div', undefined, 'links');
    near.forEach((n, i) => {
      const button = make('button');
      button.append(make('kbd', i + 1), `${named(n.latent) || '#' + n.latent} · ${n.cosine.toFixed(2)}`);
      button.title = 'latent ' + n.latent;
      button.addEventListener('click', () => select(n.latent));
      links.append(button);
    });
    parts.push(make('h3', 'Neighbours, by the cosine of concept vectors'), links);
  }
  main.replaceChildren(...parts);
  main.scrollTop = 0;
}

function wordTable(words) {
  const box = make('div'), table = make('table'), head = make('tr');
  box.append(make('h3', T > 1 ? 'Words of the prompts, over time' : 'Words of the prompts'), table);
  if (T > 1) {
    head.append(make('th', 't'), ...data.t.map(t => make('th', t.toFixed(2))));
    table.append(head);
  }
  const most = Math.max(1, ...words.flatMap(w => w.means));
  for (const w of words) {
    const row = make('tr');
    row.append(make('td', data.promptWords[w.word]));
    for (const v of w.means) {
      const cell = make('td', (v / most).toFixed(2), 'cell'), [r, g, b] = viridis(v / most);
      cell.style.background = `rgb(${r},${g},${b})`;
      cell.style.color = v / most > 0.55 ? '#000' : '#fff';
      row.append(cell);
    }
    table.append(row);
  }
  box.append(make('div', 'mean activation with the word, of the greatest shown', 'small grey'));
  return box;
}

function select(latent, quiet) {
  if (!(latent >= 0 && latent < data.labels.length)) return;
  selected = latent;
  page(latent);
  const i = shown.indexOf(latent), list = find('list');
  if (i >= 0) {
    if (i * ROW < list.scrollTop) list.scrollTop = i * ROW;
    if ((i + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (i + 1) * ROW - list.clientHeight;
  }
  rows();
  // Inside a notebook's frame there may be no address to change.
  if (!quiet) try { location.hash = 'latent=' + latent; } catch { /* as it is */ }
}

find('search').addEventListener('input', () => filter());
find('sort').addEventListener('change', () => filter());
find('kind').addEventListener('change', () => filter());
find('list').addEventListener('scroll', rows);
addEventListener('resize', rows);
addEventListener('hashchange', () => {
  const wanted = /latent=(\d+)/.exec(location.hash);
  if (wanted && +wanted[1] !== selected) select(+wanted[1], true);
});
addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target === find('search');
  if (event.target.tagName === 'SELECT') return;
  const i = shown.indexOf(selected), per = Math.max(1, Math.floor(find('list').clientHeight / ROW) - 1);
  const go = to => shown.length && select(shown[Math.max(0, Math.min(shown.length - 1, to))]);
  const key = event.key;
  if (key === 'ArrowDown' || (!typing && key === 'j')) go(i + 1);
  else if (key === 'ArrowUp' || (!typing && key === 'k')) go(i - 1);
  else if (key === 'PageDown') go(i + per);
  else if (key === 'PageUp') go(i - per);
  else if (!typing && key === 'Home') go(0);
  else if (!typing && key === 'End') go(shown.length - 1);
  else if (key === 'Enter' && typing) go(0);
  else if (key === 'Escape') find('list').focus();
  else if (!typing && key === '/') find('search').select();
  else if (!typing && key === 'h') { heat = !heat; rows(); if (selected >= 0) page(selected); }
  else if (!typing && key >= '1' && key <= '9') {
    const near = selected >= 0 && records && record(selected).near[+key - 1];
    if (!near) return;
    select(near.latent);
  } else return;
  event.preventDefault();
});

filter();
const wanted = /latent=(\d+)/.exec(location.hash);
if (wanted) select(+wanted[1], true);
else if (shown.length) select(shown[0], true);

document.addEventListener('DOMContentLoaded', () => {
  records = find('records').textContent.trim();
  sheets = JSON.parse(find('sheets').textContent).map(load);
  rows();
  if (selected >= 0) page(selected);
});
