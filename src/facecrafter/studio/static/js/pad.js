// The pad: a point between unpleasant and pleasant, calm and excited, among the eight emotions.

import { $, clamp, colour, draggable } from "./dom.js";

// Where a label stands beside its dot: four of the eight lie close together.
const LABELS = {
  neutral: [12, 20, "left"],
  happy: [0, -14, "center"],
  sad: [0, 26, "center"],
  surprise: [0, -14, "center"],
  fear: [-12, -8, "right"],
  anger: [12, -10, "left"],
  contempt: [14, 8, "left"],
  disgust: [-12, 16, "right"],
};
const EDGE = 1.12; // the plane is drawn a little larger than its numbers go

export function drawPad(emotions, point, chosen) {
  const canvas = $("pad");
  const context = canvas.getContext("2d");
  const size = canvas.width;
  const at = (valence, arousal) => [size / 2 + (valence / EDGE) * (size / 2), size / 2 - (arousal / EDGE) * (size / 2)];
  context.clearRect(0, 0, size, size);
  context.fillStyle = colour("--page");
  context.fillRect(0, 0, size, size);
  context.strokeStyle = colour("--line");
  context.lineWidth = 2;
  context.strokeRect(1, 1, size - 2, size - 2);
  context.beginPath();
  context.moveTo(size / 2, 0);
  context.lineTo(size / 2, size);
  context.moveTo(0, size / 2);
  context.lineTo(size, size / 2);
  context.stroke();
  const family = getComputedStyle(document.body).fontFamily;
  context.font = `20px ${family}`;
  context.fillStyle = colour("--muted");
  const write = (text, x, y, align) => {
    context.textAlign = align;
    context.fillText(text, x, y);
  };
  write("excited", size / 2 + 8, 24, "left");
  write("calm", size / 2 + 8, size - 12, "left");
  write("unpleasant", 8, size / 2 - 10, "left");
  write("pleasant", size - 8, size / 2 - 10, "right");
  for (const { name, valence, arousal } of emotions) {
    const [x, y] = at(valence, arousal);
    const own = name === chosen;
    context.beginPath();
    context.arc(x, y, own ? 9 : 6, 0, 2 * Math.PI);
    context.fillStyle = colour(own ? "--accent" : "--strong-line");
    context.fill();
    const [right, down, align] = LABELS[name] ?? [10, 0, "left"];
    context.font = `${own ? "bold " : ""}22px ${family}`;
    context.fillStyle = colour("--text");
    write(name, x + right, y + down, align);
  }
  if (point) {
    const [x, y] = at(point.valence, point.arousal);
    context.beginPath();
    context.arc(x, y, 14, 0, 2 * Math.PI);
    context.fillStyle = colour("--accent");
    context.globalAlpha = 0.35;
    context.fill();
    context.globalAlpha = 1;
    context.lineWidth = 4;
    context.strokeStyle = colour("--accent");
    context.stroke();
  }
}

/** Let the pad be dragged; `change` gets valence and arousal, `end` is called when it is let go. */
export function dragPad(change, end) {
  const number = (share) => Math.round(clamp((share * 2 - 1) * EDGE, -1, 1) * 100) / 100;
  draggable($("pad"), (place) => change({ valence: number(place.x), arousal: -number(place.y) + 0 }), end);
}
