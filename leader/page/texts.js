// How numbers and moments are written, and elements made.

export const count = (n) => (n < 1e12 ? n.toLocaleString('en') : `≈ 2^${Math.round(Math.log2(n))}`);

export function percent(share) {
  const value = share * 100;
  return `${value > 0 && value < 1 ? '<1' : value > 99 && value < 100 ? '>99' : Math.round(value)} %`;
}

export function ago(stamp) {
  const seconds = (Date.now() - Date.parse(stamp)) / 1000;
  const ahead = seconds < 0;
  const size = Math.abs(seconds);
  const text = size < 120 ? `${Math.round(size)} s` : size < 7200 ? `${Math.round(size / 60)} min` : size < 172800 ? `${Math.round(size / 3600)} h` : `${Math.round(size / 86400)} d`;
  return `${new Date(stamp).toLocaleString('sv')} (${ahead ? `in ${text}` : `${text} ago`})`;
}

/** An element; attributes whose value is null are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
