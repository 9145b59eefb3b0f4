declare module "systemjs/dist/*";
declare module "react-custom-scrollbars-2/lib/index.js";
