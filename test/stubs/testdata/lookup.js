// Looks names up with Node.js and prints one line a name: `lookup` by the C library, `resolve` by c-ares.
const dns = require("dns").promises;
(async () => {
  const [how, ...names] = process.argv.slice(2);
  for (const name of names) {
    try {
      let addresses;
      if (how === "lookup") addresses = (await dns.lookup(name, { all: true })).map((a) => a.address);
      else {
        const of = (p) => p.catch((e) => (e.code === "ENODATA" ? [] : Promise.reject(e)));
        addresses = [...(await of(dns.resolve4(name))), ...(await of(dns.resolve6(name)))];
      }
      console.log(name, addresses.sort().join(" "));
    } catch (e) {
      console.log(name, "error:", e.code);
    }
  }
})();
