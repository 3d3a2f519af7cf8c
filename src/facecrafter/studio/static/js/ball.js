// The face ball: a head that is turned by dragging. Its features are points on a sphere, in the pose that is asked for.

import { $, clamp, colour, draggable } from "./dom.js";

const DEGREES_A_WIDTH = 110;
const radians = (degrees) => (degrees * Math.PI) / 180;

/** Turn a point, x to the image's right, y up, z to the viewer. */
function turned([x, y, z], { yaw, pitch, roll }) {
  const [a, b, c] = [radians(yaw), radians(pitch), radians(roll)];
  [y, z] = [y * Math.cos(b) + z * Math.sin(b), z * Math.cos(b) - y * Math.sin(b)];
  [x, z] = [x * Math.cos(a) + z * Math.sin(a), z * Math.cos(a) - x * Math.sin(a)];
  return [x * Math.cos(c) - y * Math.sin(c), x * Math.sin(c) + y * Math.cos(c), z];
}

/** A point of the face on the head's surface. */
function onHead(x, y) {
  return [x, y, Math.sqrt(Math.max(0.05, 1 - x * x - 0.72 * y * y))];
}

export function drawBall(pose, expression) {
  const canvas = $("ball");
  const context = canvas.getContext("2d");
  const size = canvas.width;
  const middle = size / 2;
  const radius = size * 0.37;
  context.clearRect(0, 0, size, size);
  const at = (point) => {
    const [x, y, z] = turned(point, pose);
    return [middle + x * radius, middle - y * radius * 1.12, z];
  };
  const line = (points, width, stroke) => {
    context.beginPath();
    let drawn = false;
    for (const point of points) {
      const [x, y, z] = at(point);
      if (z < 0.02) drawn = false;
      else if (drawn) context.lineTo(x, y);
      else {
        context.moveTo(x, y);
        drawn = true;
      }
    }
    context.lineWidth = width;
    context.strokeStyle = stroke;
    context.lineCap = context.lineJoin = "round";
    context.stroke();
  };
  head(context, middle, radius, pose);
  const faint = colour("--line");
  const strong = colour("--text");
  const along = (make) => Array.from({ length: 41 }, (_, index) => make(-1 + index / 20));
  line(along((share) => [0, share * 0.98, Math.sqrt(Math.max(0, 1 - share * share))]), 2.5, faint);
  line(along((share) => [share * 0.98, 0.12, Math.sqrt(Math.max(0, 1 - share * share))]), 2.5, faint);
  const score = (name) => expression[name] ?? 0;
  for (const [side, sign] of [["Left", 1], ["Right", -1]]) {
    feature(sign, side, score, line, strong);
  }
  mouth(score, line, strong);
  line([onHead(0, 0.1), [0, -0.12, 1.12], onHead(0.1, -0.16), onHead(-0.04, -0.17)], 5, strong);
}

function head(context, middle, radius, pose) {
  const light = context.createRadialGradient(
    middle - radius * 0.3, middle - radius * 0.45, radius * 0.1, middle, middle, radius * 1.25);
  light.addColorStop(0, colour("--surface"));
  light.addColorStop(1, colour("--accent-soft"));
  context.beginPath();
  context.ellipse(middle, middle, radius, radius * 1.14, radians(-pose.roll), 0, 2 * Math.PI);
  context.fillStyle = light;
  context.fill();
  context.lineWidth = 3;
  context.strokeStyle = colour("--strong-line");
  context.stroke();
}

function feature(sign, side, score, line, stroke) {
  const raise = 0.14 * score(`browOuterUp${side}`) - 0.1 * score(`browDown${side}`);
  const inner = 0.14 * score("browInnerUp") - 0.12 * score(`browDown${side}`);
  line([onHead(sign * 0.16, 0.36 + inner), onHead(sign * 0.32, 0.43 + raise), onHead(sign * 0.5, 0.36 + raise)], 7, stroke);
  const open = Math.max(0.008, 0.07 * (1 + 0.6 * score(`eyeWide${side}`) - score(`eyeBlink${side}`) - 0.5 * score(`eyeSquint${side}`)));
  const points = Array.from({ length: 25 }, (_, index) => {
    const angle = (index / 24) * 2 * Math.PI;
    return onHead(sign * 0.32 + 0.11 * Math.cos(angle), 0.18 + open * Math.sin(angle));
  });
  line(points, 5, stroke);
  const gaze = sign * (score(`eyeLookOut${side}`) - score(`eyeLookIn${side}`)) * 0.06;
  const height = (score(`eyeLookUp${side}`) - score(`eyeLookDown${side}`)) * 0.03;
  if (open > 0.03) line([onHead(sign * 0.32 + gaze, 0.18 + height), onHead(sign * 0.321 + gaze, 0.181 + height)], 16, stroke);
}

function mouth(score, line, stroke) {
  const smile = (side) => 0.12 * (score(`mouthSmile${side}`) - score(`mouthFrown${side}`));
  const wide = 0.24 + 0.06 * Math.max(score("mouthSmileLeft"), score("mouthSmileRight")) - 0.12 * score("mouthPucker");
  const shift = 0.1 * (score("mouthLeft") - score("mouthRight"));
  const open = 0.26 * score("jawOpen");
  const lip = (drop) => Array.from({ length: 21 }, (_, index) => {
    const share = -1 + index / 10;
    const up = share > 0 ? smile("Left") : smile("Right");
    return onHead(shift + share * wide, -0.42 + up * share * share - drop * (1 - share * share));
  });
  line(lip(0.01), 6, stroke);
  if (open > 0.01) line(lip(0.01 + open), 6, stroke);
}

/** Let the ball be dragged; `change` gets the pose, `end` is called when it is let go. */
export function dragBall(now, change, end) {
  let start = null;
  draggable(
    $("ball"),
    (place, from, first) => {
      if (first) start = { ...now() };
      change({
        ...start,
        yaw: Math.round(clamp(start.yaw + (place.x - from.x) * DEGREES_A_WIDTH, -45, 45)),
        pitch: Math.round(clamp(start.pitch - (place.y - from.y) * DEGREES_A_WIDTH, -30, 30)),
      });
    },
    end,
  );
}
