// Prints a user token for a live room. Needs Node.js 18 and no package.
//
// Arguments: USER NAME [ROLE ROOM...]. Environment: TOKEN_SIGNING_KEY, a file with the private key in PEM;
// TOKEN_KEY_ID, its kid in the JWK Set that liveroom has.

import { sign } from "node:crypto";
import { readFileSync } from "node:fs";

const [user, name, role = "viewer", ...rooms] = process.argv.slice(2);
const now = Math.floor(Date.now() / 1000);
const claims = { aud: "liveroom", sub: user, name, role, iat: now, exp: now + 3600 };
if (rooms.length) claims.rooms = rooms;
const encoded = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
const text = `${encoded({ alg: "RS256", typ: "JWT", kid: process.env.TOKEN_KEY_ID })}.${encoded(claims)}`;
const signature = sign("sha256", Buffer.from(text), readFileSync(process.env.TOKEN_SIGNING_KEY));
console.log(`${text}.${signature.toString("base64url")}`);
