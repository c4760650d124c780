// An application's own server: fal's official proxy for Express, on a free port that it prints.
import * as proxy from "@fal-ai/server-proxy/express";
import express from "express";

const app = express();
app.use(express.json({ limit: "8mb" }));
app.all(proxy.route, proxy.handler);
const door = app.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${door.address().port}${proxy.route}`));
process.stdin.on("close", () => process.exit()).resume();
