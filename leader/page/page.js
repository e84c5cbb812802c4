import { Grid, STATES, decode } from './grid.js';
import { ago, count, make, percent } from './texts.js';

const $ = (id) => document.getElementById(id);
const WINDOW = 65536;
const WORDS = {
  allocated: 'allocated', pinned: 'pinned', warm: 'warm', free: 'free', cooling: 'cooling', suspect: 'suspect',
  quarantined: 'quarantined', reserved: 'reserved',
};
const MEANING = {
  allocated: 'a pod has it', pinned: 'kept for an identity that does not run now', warm: 'free, leased ahead by a node',
  free: 'free, in nobody’s lease', cooling: 'free, released too recently', suspect: 'free, fully probed before its next use',
  quarantined: 'a station that is not ours uses it', reserved: 'not handed out: reserved, gateway or an older pool',
};
const ALWAYS = ['allocated', 'warm', 'free', 'cooling', 'quarantined', 'reserved'];
const view = { pools: null, name: '', first: '0', part: null, highlight: null, details: new Map(), kept: false };
const grid = new Grid($('grid-box'), $('grid'), $('spacer'), onCell);

// The API

class Refused extends Error {}

async function get(path) {
  const response = await fetch(path, { headers: { Accept: 'application/json' } });
  if (response.ok) return response.json();
  const told = await response.json().catch(() => ({}));
  throw Object.assign(new Refused(told.message ?? `the server answered ${response.status}`), { status: response.status });
}

/** Run `work`; what fails is shown in the banner, and what is on the page stays, paler. */
async function trying(work) {
  try {
    await work();
    $('banner').hidden = true;
    $('main').classList.remove('old');
  } catch (error) {
    const why = error instanceof Refused ? error.message : 'the leader cannot be reached';
    $('banner').textContent = view.pools ? `${why}. What you see is from before.` : why;
    $('banner').hidden = false;
    $('main').classList.toggle('old', view.pools !== null);
  }
}

// Pools

function bar(pool) {
  const box = make('div', { class: 'bar', role: 'img', 'aria-label': barText(pool) });
  for (const state of Object.values(STATES)) {
    if (!pool[state]) continue;
    const part = make('i', { class: state, title: `${WORDS[state]}: ${count(pool[state])}` });
    part.style.flex = `${pool[state] / pool.total} 1 0`;
    box.append(part);
  }
  return box;
}

function barText(pool) {
  return Object.values(STATES).filter((state) => pool[state]).map((state) => `${count(pool[state])} ${WORDS[state]}`).join(', ');
}

function badges(pool) {
  const found = [];
  if (pool.state !== 'Ready') found.push(make('span', { class: `badge ${pool.state === 'Disabled' ? '' : pool.state === 'Overlapping' || pool.state === 'Deleting' ? 'warning' : 'danger'}` }, pool.state));
  else if (pool.level === 'danger') found.push(make('span', { class: 'badge danger' }, 'nearly full'));
  else if (pool.level === 'warning') found.push(make('span', { class: 'badge warning' }, 'filling up'));
  if (pool.lacking) found.push(make('span', { class: 'badge warning' }, `${count(pool.lacking)} wanted`));
  if (pool.default) found.push(make('span', { class: 'badge' }, 'default'));
  return found;
}

function card(pool) {
  const link = make('a', { href: `#pool=${encodeURIComponent(pool.name)}`, 'data-pool': pool.name, 'aria-current': pool.name === view.name ? 'true' : null });
  const head = make('div', { class: 'row' }, make('span', { class: 'name' }, pool.name), make('span', {}, ...badges(pool)));
  if (!pool.family) return link.append(head, make('p', { class: 'why' }, pool.why)) ?? link;
  const numbers = make('div', { class: 'numbers' },
    make('span', {}, make('span', { class: `share ${pool.level}` }, percent(pool.utilisation)), ' in use'),
    make('span', {}, `${count(pool.available)} available of ${count(pool.total)}`));
  link.append(head, make('div', { class: 'quiet' }, pool.subnet + (pool.domain ? ` in ${pool.domain}` : '')), bar(pool), numbers);
  return link;
}

function showPools() {
  const rows = [...view.pools];
  if ($('sort').value === 'full') rows.sort((a, b) => b.utilisation - a.utilisation);
  const focused = document.activeElement?.dataset?.pool;
  $('pool-list').replaceChildren(...rows.map((pool) => make('li', {}, card(pool))));
  if (focused) [...$('pool-list').querySelectorAll('a')].find((link) => link.dataset.pool === focused)?.focus();
  $('no-pools').hidden = rows.length > 0;
  $('pools-title').textContent = rows.length ? `${count(rows.length)} ${rows.length === 1 ? 'pool' : 'pools'}` : 'Pools';
}

async function loadPools() {
  view.pools = (await get('api/pools')).pools;
  showPools();
}

// One pool

async function loadPart() {
  const { name, first } = view;
  if (!name) return;
  const listed = view.pools?.find((pool) => pool.name === name);
  const part = listed?.family === undefined && listed ? null : await get(`api/pools/${encodeURIComponent(name)}?first=${first}&count=${WINDOW}`);
  if (name !== view.name || first !== view.first) return; // somebody has chosen another one meanwhile
  view.part = part;
  view.details.clear();
  showPart(part ? part.pool : listed);
}

function showPart(pool) {
  const part = view.part;
  $('no-choice').hidden = true;
  $('chosen').hidden = false;
  $('pool-name').textContent = pool.name;
  $('pool-badges').replaceChildren(...badges(pool));
  $('pool-why').hidden = !pool.why;
  $('pool-why').textContent = pool.why;
  for (const id of ['pool-facts', 'big-bar', 'legend', 'grid-box', 'note']) $(id).hidden = !part;
  if (!part) { $('strip').hidden = $('pager').hidden = true; return; }
  $('pool-facts').textContent = `IPv${pool.family} ${pool.subnet}${pool.domain ? ` in L2 domain ${pool.domain}` : ''} · ${percent(pool.utilisation)} in use · ${count(pool.available)} available of ${count(pool.total)}${pool.nodes ? ` · ${pool.nodes} ${pool.nodes === 1 ? 'node' : 'nodes'}` : ''}`;
  $('big-bar').replaceChildren(bar(pool));
  $('legend').replaceChildren(...Object.values(STATES).filter((state) => ALWAYS.includes(state) || pool[state]).map((state) => make('li',
    { title: MEANING[state] }, make('span', { class: `swatch ${state}` }), WORDS[state], ' ', make('b', {}, count(pool[state])))));
  $('note').hidden = !pool.restingOnNodes;
  $('note').textContent = `${count(pool.restingOnNodes)} of the leased addresses ${pool.restingOnNodes === 1 ? 'cools' : 'cool'} down; only their nodes know which, so the grid shows them as warm.`;
  grid.show(part.spans, decode(part.states, part.count));
  $('grid-box').setAttribute('aria-label', `${count(part.count)} addresses of ${pool.name}`);
  $('pager').hidden = !part.previous && !part.next;
  $('previous').disabled = !part.previous;
  $('next').disabled = !part.next;
  $('part').textContent = part.count ? `${grid.address(0)} – ${grid.address(part.count - 1)}` : '';
  showHighlight();
  paintStrip();
}

function paintStrip() {
  const canvas = $('strip');
  canvas.hidden = !view.part || view.part.count <= 1024;
  if (canvas.hidden) return;
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  if (canvas.width !== Math.round(width * scale)) { canvas.width = Math.round(width * scale); view.strip = null; }
  canvas.height = 40 * scale;
  const c = canvas.getContext('2d');
  c.scale(scale, scale);
  const bins = Math.min(256, Math.floor(width / 3));
  if (view.strip?.part !== view.part) view.strip = { part: view.part, shares: shares(bins) };
  view.strip.shares.forEach(({ taken, bad }, index) => {
    const [x, w] = [(index * width) / bins, width / bins - 1];
    c.fillStyle = grid.colours['warm'];
    c.fillRect(x, 0, w, 40);
    c.fillStyle = grid.colours.allocated;
    c.fillRect(x, 40 - 40 * taken, w, 40 * taken);
    c.fillStyle = grid.colours.quarantined;
    if (bad) c.fillRect(x, 0, w, 6);
  });
  c.fillStyle = grid.colours.ink;
  for (const [from, length] of grid.ranges) c.fillRect((from / grid.states.length) * width, 34, Math.max(2, (length / grid.states.length) * width), 6);
  if (grid.rows) {
    const [first, last] = grid.visibleRows();
    c.strokeStyle = grid.colours.ink;
    c.lineWidth = 2;
    c.strokeRect(Math.max(1, (first / grid.rows) * width), 1, Math.max(4, ((last - first + 1) / grid.rows) * width - 2), 38);
  }
  canvas.setAttribute('aria-label', `How full each part of ${view.name} is, from its lowest to its highest address`);
}

function shares(bins) {
  return Array.from({ length: bins }, (_, index) => {
    const [low, high] = [0, 1].map((one) => Math.floor(((index + one) * grid.states.length) / bins));
    const counts = [0, 0, 0, 0, 0, 0, 0, 0];
    for (let at = low; at < high; at += 1) counts[grid.states[at]] += 1;
    return { taken: (counts[0] + counts[1]) / Math.max(1, high - low), bad: counts[6] };
  });
}

// One address

function onCell(index, place, how) {
  const tip = $('tip');
  if (index === null) { if (!view.kept) tip.hidden = true; return; }
  if (how === 'hover' && view.kept) return;
  view.kept = how === 'keep';
  const address = grid.address(index);
  const state = STATES[Object.keys(STATES)[grid.states[index]]];
  const same = tip.dataset.address === address && !tip.hidden;
  tip.classList.toggle('kept', view.kept);
  tip.dataset.address = address;
  if (!same) showTip(address, state, view.details.get(address));
  tip.hidden = false;
  putTip(place);
  view.place = place;
  if (!view.details.has(address)) {
    clearTimeout(view.asking);
    view.asking = setTimeout(() => ask(address, state, how), how === 'hover' ? 80 : 30);
  } else if (how !== 'hover') say(address, view.details.get(address));
}

/** Below the cell, so that its row stays visible; above it where there is no room. */
function putTip(place) {
  const tip = $('tip');
  const { width, height } = tip.getBoundingClientRect();
  const below = place.top + place.width + 8;
  tip.style.left = `${Math.max(8, Math.min(place.left + place.width / 2 - 40, innerWidth - width - 8))}px`;
  tip.style.top = `${below + height < innerHeight - 8 ? below : Math.max(8, place.top - height - 8)}px`;
}

async function ask(address, state, how) {
  const name = view.name;
  const found = await get(`api/pools/${encodeURIComponent(name)}/${address}`).catch(() => null);
  if (!found || name !== view.name) return;
  view.details.set(address, found);
  if ($('tip').dataset.address !== address) return;
  showTip(address, state, found);
  putTip(view.place);
  if (how !== 'hover') say(address, found);
}

function say(address, found) {
  $('said').textContent = `${address}, ${found.state}${found.pod ? `, ${found.pod} on ${found.node}` : found.lease ? `, leased by ${found.lease}` : ''}`;
}

function showTip(address, state, found) {
  const facts = make('dl');
  const line = (name, value) => value && facts.append(make('dt', {}, name), make('dd', {}, value));
  if (found) {
    line('Pod', found.pod);
    line('Owner', found.owner);
    line('Node', found.node);
    line('Interface', found.interface);
    if (found.pod) line('MAC', found.mac || 'not recorded');
    if (found.since) line('Since', ago(found.since));
    if (found.lease && !found.pod) line('Leased by', found.lease);
    line('Pinned for', found.pin);
    if (found.coolingUntil && state === 'cooling') line('Cools until', ago(found.coolingUntil));
    for (const one of found.conflicts ?? []) line('Conflict', `${one.mac}, seen by ${one.node} ${ago(one.seen)}${one.how ? `, ${one.how}` : ''}`);
  }
  $('tip').replaceChildren(make('h3', {}, make('span', { class: `swatch ${state}` }), make('span', { class: 'mono' }, address), ' ', make('span', { class: 'badge' }, WORDS[state])),
    make('p', {}, found?.why ?? MEANING[state]), facts);
}

function closeTip() {
  view.kept = false;
  grid.leave();
}

// Search

const search = { found: [], chosen: -1, asked: 0 };

async function find() {
  const text = $('query').value.trim();
  search.asked += 1;
  const mine = search.asked;
  if (!text) { closeMatches(); return; }
  await trying(async () => {
    const answer = await get(`api/search?q=${encodeURIComponent(text)}`);
    if (mine !== search.asked) return;
    search.found = answer.matches;
    search.query = text;
    $('matches').replaceChildren(...answer.matches.map((match, index) => make('li', { role: 'option', id: `match-${index}`, 'data-index': index, 'aria-selected': 'false' },
      make('span', { class: 'kind' }, match.kind), make('b', {}, match.label), make('span', { class: 'quiet' }, `${match.note} — ${match.pool}`))));
    $('matches-note').textContent = [answer.matches.length ? '' : 'Nothing found.', answer.more ? 'There are more; type more of it.' : '', answer.note].filter(Boolean).join(' ');
    $('matches-box').hidden = false;
    $('query').setAttribute('aria-expanded', 'true');
    point(answer.matches.length ? 0 : -1);
  });
}

function point(index) {
  search.chosen = index;
  [...$('matches').children].forEach((item, at) => item.setAttribute('aria-selected', String(at === index)));
  const item = $('matches').children[index];
  if (item) { item.scrollIntoView({ block: 'nearest' }); $('query').setAttribute('aria-activedescendant', item.id); } else $('query').removeAttribute('aria-activedescendant');
}

function closeMatches() {
  search.asked += 1;
  $('matches-box').hidden = true;
  $('query').setAttribute('aria-expanded', 'false');
  $('query').removeAttribute('aria-activedescendant');
}

async function jump(match) {
  closeMatches();
  closeTip();
  view.highlight = match;
  const ordinal = BigInt(match.ordinal);
  const first = String(ordinal - (ordinal % BigInt(WINDOW)));
  await choose(match.pool, first);
  const index = Number(ordinal - BigInt(view.first));
  if (match.ranges.length === 1 && match.ranges[0][1] === 1) { $('grid-box').focus({ preventScroll: true }); $('grid-box').scrollIntoView({ block: 'nearest' }); grid.move(index, 'keep'); } else grid.reveal(index);
}

function showHighlight() {
  const match = view.highlight?.pool === view.name ? view.highlight : null;
  $('highlight').hidden = !match;
  if (!match || !view.part) { grid.mark([]); return; }
  $('highlight-text').textContent = `${match.label}: ${match.note}`;
  const from = Number(BigInt(match.ordinal) - BigInt(view.part.first));
  grid.mark(match.ranges.map(([offset, length]) => [from + offset, length]));
}

// Ways through the page

/** Show a pool, from ordinal `first` on; returns when it is drawn. */
async function choose(name, first = '0') {
  if (name !== view.name) { grid.leave(); grid.cursor = -1; $('grid-box').scrollTop = 0; }
  Object.assign(view, { name, first });
  $('main').dataset.view = name ? 'pool' : 'pools';
  const hash = name ? `#pool=${encodeURIComponent(name)}` : '';
  if (location.hash !== hash) history.pushState(null, '', hash || location.pathname);
  document.title = name ? `${name} – Nephila` : 'Nephila';
  if (view.pools) showPools();
  if (!name) { $('no-choice').hidden = false; $('chosen').hidden = true; return; }
  await trying(loadPart);
}

function route() {
  const name = decodeURIComponent(location.hash.match(/^#pool=(.+)$/)?.[1] ?? '');
  if (name === view.name) return;
  closeTip();
  const wide = matchMedia('(min-width: 821px)').matches;
  choose(name || (wide && view.pools?.[0]?.name) || '');
}

function connect() {
  const source = new EventSource('api/changes');
  view.source = source;
  const live = (state, text) => { $('live').dataset.state = state; $('live-text').textContent = text; };
  source.addEventListener('hello', () => { live('live', 'live'); trying(async () => { await loadPools(); route(); await loadPart(); }); });
  source.addEventListener('pools', (event) => {
    live('live', `live · ${new Date().toLocaleTimeString('sv')}`);
    const names = JSON.parse(event.data);
    trying(async () => { await loadPools(); if (names.includes(view.name)) await loadPart(); });
  });
  source.addEventListener('error', () => {
    live('lost', 'not live');
    trying(loadPools); // says why, if the server does
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(() => view.source === source && connect(), 3000);
  });
}

$('sort').addEventListener('change', showPools);
$('clear').addEventListener('click', () => { view.highlight = null; showHighlight(); });
$('previous').addEventListener('click', () => choose(view.name, view.part.previous));
$('next').addEventListener('click', () => choose(view.name, view.part.next));
$('back').addEventListener('click', (event) => { event.preventDefault(); closeTip(); choose(''); });
$('skip').addEventListener('click', (event) => { event.preventDefault(); ($('chosen').hidden ? $('detail') : $('grid-box')).focus(); });
$('strip').addEventListener('click', (event) => { $('grid-box').scrollTop = (event.offsetX / $('strip').clientWidth) * $('grid-box').scrollHeight - $('grid-box').clientHeight / 2; });
$('query').addEventListener('input', () => { clearTimeout(search.timer); search.timer = setTimeout(find, 150); });
$('query').addEventListener('keydown', (event) => {
  if (event.key === 'Escape') closeMatches();
  if ($('matches-box').hidden || !search.found.length) return;
  if (event.key === 'ArrowDown') point((search.chosen + 1) % search.found.length);
  else if (event.key === 'ArrowUp') point((search.chosen + search.found.length - 1) % search.found.length);
  else return;
  event.preventDefault();
});
$('search-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  clearTimeout(search.timer);
  if ($('matches-box').hidden || search.query !== $('query').value.trim()) await find();
  if (search.found[search.chosen]) jump(search.found[search.chosen]);
});
$('matches').addEventListener('pointerdown', (event) => {
  const item = event.target.closest('li');
  if (item) { event.preventDefault(); jump(search.found[Number(item.dataset.index)]); }
});
document.addEventListener('pointerdown', (event) => { if (!event.target.closest('#search-form')) closeMatches(); });
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') closeTip();
  if (event.key === '/' && document.activeElement !== $('query')) { event.preventDefault(); $('query').focus(); }
});
$('grid-box').addEventListener('blur', () => { if (!view.kept) closeTip(); });
grid.onScroll = paintStrip;
// A page that the browser keeps for the way back would keep its stream too, and six of them are all that one browser has for a server.
addEventListener('pagehide', () => view.source?.close());
addEventListener('pageshow', (event) => { if (event.persisted) connect(); });
addEventListener('popstate', route);
addEventListener('hashchange', route);
window.nephila = { grid, view }; // for the console and for tests
connect();
