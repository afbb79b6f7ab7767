/* Set this file as "Objective-C Bridging Header" (SWIFT_OBJC_BRIDGING_HEADER), or give it to swiftc with
   -import-objc-header. Every Swift file of the app then sees the C functions. */
#include <mlxrt.h>
