// Looks names up with Node.js and prints one line a name, as lookup.c does but without the canonical name: `lookup` by the C library,
// `resolve` by c-ares.
const dns = require("dns").promises;

const has = (records) => records.catch((e) => (e.code === "ENODATA" ? [] : Promise.reject(e)));
const ways = {
  lookup: async (name) => (await dns.lookup(name, { all: true })).map((a) => a.address),
  resolve: async (name) => [...(await has(dns.resolve4(name))), ...(await has(dns.resolve6(name)))],
};

(async () => {
  const [way, ...names] = process.argv.slice(2);
  for (const name of names) {
    try {
      console.log(name, (await ways[way](name)).sort().join(" "));
    } catch (e) {
      console.log(name, "error:", e.code);
    }
  }
})();
