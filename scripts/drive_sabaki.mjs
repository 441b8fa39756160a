// Drives the GTP engine by Sabaki's own controller, then as gtp2ogs speaks to its bots.
//
//     npm install --prefix build/sabaki @sabaki/gtp@3.0.0
//     node scripts/drive_sabaki.mjs build/sabaki .venv/bin/selfplay gtp --net go9x9@8
//
// Every answer is checked; the last line says how many there were.

import {spawn} from "node:child_process";
import {writeFileSync} from "node:fs";
import {createRequire} from "node:module";
import {tmpdir} from "node:os";
import {join, resolve} from "node:path";

const [folder, program, ...args] = process.argv.slice(2);
const {Controller, ControllerStateTracker, Command} = createRequire(resolve(folder, "node_modules/x.js"))("@sabaki/gtp");
let checked = 0;

function check(fine, words) {
  if (!fine) throw new Error(words);
  checked += 1;
}
const vertex = (text) => /^(pass|[A-HJ][1-9])$/i.test(text);

async function sabaki() {
  const controller = new Controller(program, args), tracker = new ControllerStateTracker(controller);
  const ask = async (line, error = false) => {
    const found = await controller.sendCommand(Command.fromString(line));
    check(found.error === error, `${line}: ${found.content}`);
    return found.content;
  };
  // Lines of an analysis, until another command ends it.
  const analyse = async (line, count) => {
    const lines = [];
    const ended = new Promise((done) => {
      controller.sendCommand(Command.fromString(line), ({line}) => {
        if (line.startsWith("info ")) lines.push(line);
        if (lines.length === count) controller.sendCommand({name: "protocol_version"});
      }).then(done);
    });
    const found = await ended;
    check(!found.error && lines.length >= count, `${line}: ${found.content}`);
    for (const each of lines) for (const move of each.split(/\s*info\s+/).slice(1)) {
      const words = move.split(/\s+/), at = words.indexOf("pv"), pairs = words.slice(0, at);
      const value = Object.fromEntries(pairs.filter((_, n) => n % 2 === 0).map((key, n) => [key, pairs[2 * n + 1]]));
      const winrate = value.winrate.includes(".") ? 100 * value.winrate : value.winrate / 100; // as Sabaki reads it
      check(vertex(value.move) && winrate >= 0 && winrate <= 100 && words[at + 1] === value.move, each);
    }
    return lines;
  };
  await ask("name");
  await ask("version");
  check(await tracker.knowsCommand("kata-genmove_analyze"), "kata-genmove_analyze");
  // A game with handicap is set up, a move is changed, the tracker takes back and plays on.
  const handicap = {name: "set_free_handicap", args: ["G7", "C3"]};
  const moves = ["E5", "E3", "G5"].map((at, n) => ({name: "play", args: [n % 2 ? "B" : "W", at]}));
  await tracker.sync({komi: 0.5, boardsize: [9, 9], history: [handicap, ...moves]});
  await tracker.sync({komi: 0.5, boardsize: [9, 9], history: [handicap, ...moves.slice(0, 2), {name: "play", args: ["W", "C6"]}]});
  check(/C6|\(O\)/.test(await ask("showboard")), "showboard");
  check(tracker.state.history.length === 4, "the tracker knows the game");
  check(vertex(await ask("genmove B")), "genmove");
  await ask("undo");
  await tracker.sync({komi: 7, boardsize: [9, 9], history: []});
  for (let n = 0; n < 12; n += 1) check(vertex(await ask(`genmove ${"BW"[n % 2]}`)), "genmove");
  await analyse("lz-analyze B 20", 2);
  const owned = (await analyse("kata-analyze B 20 ownership true", 2)).pop().split(" ownership ")[1].split(" ");
  check(owned.length === 81 && owned.every((share) => Math.abs(share) <= 1), "ownership");
  const said = await ask("kata-genmove_analyze B 20");
  check(vertex(said.split("play ").pop()) && tracker.state.history.length === 13, said);
  check(/^([BW]\+[\d.]+|0)$/.test(await ask("final_score")), "final_score");
  const file = join(tmpdir(), `selfplay-${process.pid}.sgf`);
  writeFileSync(file, "(;GM[1]FF[4]SZ[9]KM[7]HA[2]AB[cg][gc];W[ee];B[ge])");
  await ask(`loadsgf ${file}`);
  check(vertex(await ask("genmove W")), "genmove after loadsgf");
  await ask("loadsgf /no/such/file.sgf", true);
  await ask("boardsize 19", true);
  await ask("boardsize 9");
  await ask("fixed_handicap 4");
  await controller.stop(10000);
}

async function ogs() {
  const bot = spawn(program, args, {stdio: ["pipe", "pipe", "inherit"]}), waiting = [];
  let buffer = "";
  bot.stdout.on("data", (data) => {
    buffer += data;
    if (!/(\r?\n){2}$/.test(buffer)) return;
    const answers = buffer.split(/(?:\r?\n){2}/).filter((part) => part.trim());
    buffer = "";
    for (const answer of answers) waiting.shift()(answer);
  });
  const ask = (line) => new Promise((done) => { waiting.push(done); bot.stdin.write(`${line}\r\n`); }).then((answer) => {
    check(answer[0] === "=", `${line}: ${answer}`);
    return answer.slice(1).trim();
  });
  check((await ask("list_commands")).split("\n").includes("kgs-time_settings"), "list_commands");
  await ask("kata-list_time_settings");
  for (const line of ["boardsize 9", "clear_board", "komi 5.5", "play black E5", "play black C3", "play white G7", "play black pass",
    "kgs-time_settings byoyomi 60 3 5", "time_left black 60 0", "time_left white 0 5"]) await ask(line);
  const since = Date.now();
  check(vertex(await ask("genmove white")) && Date.now() - since < 3000, "a move in its period");
  for (const line of ["clear_board", "set_free_handicap c3 g7 g3", "kgs-time_settings canadian 57 3 1", "time_left white 2 1"]) await ask(line);
  check(vertex(await ask("genmove white")), "genmove after handicap");
  await ask("quit");
}

await sabaki();
await ogs();
console.log(`${checked} answers checked`);
