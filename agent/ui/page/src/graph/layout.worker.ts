/** The layout, aside: the page answers while it is made. */

import { layout, type Asked } from "./layout";

self.onmessage = (event: MessageEvent<Asked>) => self.postMessage(layout(event.data));
