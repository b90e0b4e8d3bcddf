// Hides the columns in which the words searched for do not all stand.
"use strict";
const search = document.getElementById("search");
const columns = [...document.querySelectorAll(".column")].map((section, i) => ({
  section,
  link: document.querySelector(`nav a[href="#c${i}"]`).parentElement,
  text: section.textContent.toLowerCase(),
}));
search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const { section, link, text } of columns) {
    const matches = words.every((word) => text.includes(word));
    section.hidden = link.hidden = !matches;
    found += matches;
  }
  document.getElementById("none").hidden = found > 0;
});
