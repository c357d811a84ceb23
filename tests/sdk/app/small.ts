import { userText } from "liveroom";

console.log(userText("ann"));
