// Says hello, from wherever it runs.
const http = require("node:http");
const os = require("node:os");

const server = http.createServer((request, response) => {
  response.setHeader("Content-Type", "text/plain");
  // Whom a proxy has asked for, where one has.
  const client = request.headers["x-forwarded-for"];
  response.end(`hello from ${os.hostname()}, node${client ? ` for ${client}` : ""}\n`);
});
server.listen(process.env.PORT);
// PID 2 of its sandbox or not: ends when it is told to, after the requests that it has.
process.on("SIGTERM", () => server.close());
