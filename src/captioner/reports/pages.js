// What pages about attention share, within the block of each page's own program.

const settings = JSON.parse(document.getElementById("settings").textContent);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// For each of `length` pixels: the grid line before it, that after it, and the share of the latter.
function between(length, side) {
  return Array.from({length}, (_, pixel) => {
    const at = Math.min(Math.max((pixel + 0.5) / length * side - 0.5, 0), side - 1);
    const before = Math.min(Math.floor(at), Math.max(side - 2, 0));
    const share = at - before;
    return [before, Math.min(before + 1, side - 1), share * share * (3 - 2 * share)];
  });
}

function shine(data, pixel, light) {
  const {luminance, darkest, plain, tint, amber} = settings;
  const grey = luminance[0] * data[pixel] + luminance[1] * data[pixel + 1] + luminance[2] * data[pixel + 2];
  const seen = grey * (darkest + (plain - darkest) * Math.min(2 * light, 1));
  const above = Math.max(2 * light - 1, 0);
  for (let c = 0; c < 3; c++) data[pixel + c] = seen + above * ((1 - tint) * grey + tint * amber[c] - seen);
  data[pixel + 3] = 255;
}

function draw(canvas, picture, light) {
  const {width, height} = canvas;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(picture, 0, 0, width, height);
  const image = context.getImageData(0, 0, width, height);
  const side = Math.round(Math.sqrt(light.length));
  const columns = between(width, side);
  between(height, side).forEach(([upper, lower, down], y) => {
    const line = Array.from({length: side}, (_, x) => light[upper * side + x] * (1 - down) + light[lower * side + x] * down);
    columns.forEach(([left, right, along], x) => {
      shine(image.data, 4 * (y * width + x), line[left] * (1 - along) + line[right] * along);
    });
  });
  context.putImageData(image, 0, 0);
}

function drawScale() {
  const canvas = document.getElementById("scale");
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  image.data.fill(150);
  for (let pixel = 0; pixel < image.data.length; pixel += 4) {
    const ratio = 2 ** (8 * (pixel / 4 % canvas.width) / (canvas.width - 1) - 4);
    shine(image.data, pixel, ratio / (1 + ratio));
  }
  context.putImageData(image, 0, 0);
}

function inWords(light) {
  const most = Math.max(...light);
  const times = Math.min(most / (1 - most), light.length);
  if (times < 1.5) return "Nearly even";
  const side = Math.round(Math.sqrt(light.length));
  const at = light.indexOf(most);
  const third = line => Math.min(Math.floor(3 * (line + 0.5) / side), 2);
  const down = ["Upper", "", "Lower"][third(Math.floor(at / side))];
  const along = ["left", "", "right"][third(at % side)];
  const place = down ? `${down} ${along}`.trim() : {left: "Left", right: "Right"}[along] ?? "Middle";
  return `${place}: ${times.toFixed(times < 10 ? 1 : 0)} × the even share`;
}

// How much a model looked at a word, where it need not look; `share` is undefined where it always does.
function howMuch(share) {
  return share === undefined ? "" : ` · looked ${(100 * share).toFixed(0)} %`;
}

// Fills a select with what can be shown of several heads: their mean, then each.
function offerHeads(select, count) {
  select.append(element("option", {value: -1}, "mean of the heads"), ...Array.from(
    {length: count}, (_, head) => element("option", {value: head}, `head ${head + 1} of ${count}`)));
}

// Returns what lays light over a picture in its frame and says it in words, with some `more`, or, given null, takes it
// away.
function lamp(frame, picture, look) {
  let canvas = null, light = null, more = "";
  return function shed(given, said = "") {
    light = given;
    more = said;
    if (!light) {
      canvas?.remove();
      canvas = null;
      look.textContent = "";
      return;
    }
    look.textContent = inWords(light) + more;
    if (!picture.complete) {
      picture.addEventListener("load", () => shed(light, more), {once: true});
      return;
    }
    if (!canvas) {
      canvas = element("canvas", {width: picture.naturalWidth, height: picture.naturalHeight, "aria-hidden": "true"});
      frame.append(canvas);
    }
    draw(canvas, picture, light);
  };
}

// Returns a caption whose words, each given as what stands in it, are shown one at a time: `show(number)` is called
// with the number of the word that is pointed at or focused, with -1 when there is none.
function captionOf(contents, label, show) {
  const words = contents.map((content, number) => element(
    "button", {type: "button", class: "word", tabindex: number ? -1 : 0}, ...content));
  const caption = element("div", {class: "caption", role: "group", dir: "auto", "aria-label": label}, ...words);
  let pointed = -1, focused = -1;

  function update() {
    const shown = pointed >= 0 ? pointed : focused;
    words.forEach((one, number) => one.classList.toggle("shown", number === shown));
    show(shown);
  }

  caption.addEventListener("pointerover", event => {
    if (event.pointerType === "touch") return;
    const word = event.target.closest(".word");
    if (!word) return;
    pointed = words.indexOf(word);
    update();
  });
  caption.addEventListener("pointerleave", () => { pointed = -1; update(); });
  caption.addEventListener("focusin", event => {
    focused = words.indexOf(event.target);
    words.forEach((one, number) => { one.tabIndex = number === focused ? 0 : -1; });
    update();
  });
  caption.addEventListener("focusout", () => { focused = -1; update(); });
  // not every browser focuses a button that is tapped
  caption.addEventListener("click", event => event.target.closest(".word")?.focus());
  caption.addEventListener("keydown", event => {
    const last = words.length - 1;
    const target = {
      ArrowRight: Math.min(focused + 1, last), ArrowLeft: Math.max(focused - 1, 0), Home: 0, End: last,
    }[event.key];
    if (event.key === "Escape") document.activeElement.blur();
    if (target === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    pointed = -1;
    words[target].focus();
  });
  return caption;
}
