// Preloaded with --import: every host name leads to NAMES_LEAD_TO, as the operator's DNS would; NAMES_ASKED lists them.
import { appendFileSync } from "node:fs";
import { isIP, Socket } from "node:net";

const [host, port] = process.env.NAMES_LEAD_TO.split(":");
const connect = Socket.prototype.connect;

Socket.prototype.connect = function (...given) {
  const [options] = Array.isArray(given[0]) ? given[0] : given;
  if (options.host && !isIP(options.host)) {
    appendFileSync(process.env.NAMES_ASKED, `${options.host}\n`);
    Object.assign(options, { host, port });
  }
  return connect.apply(this, given);
};
